"""The losses of Mallis (thesis, 2023), chapter 6."""

import torch.nn.functional as F
from torch import Tensor


def channel_bce(logits: Tensor, target: Tensor, inside: Tensor, present: Tensor) -> Tensor:
    """Mean binary cross entropy of heat maps, a channel a landmark, over the channels that are present; 0 without any.

    The loss of the second stage of Mallis (thesis, chapter 6): an absent landmark teaches nothing, and a rare one
    weighs no less for being absent elsewhere. The thesis takes the squared error, which is least for the same heat; but
    a channel that is dark everywhere has next to no gradient there, and can stay so.

    Args:
        logits, target: (B, K, G, G), the target in [0, 1].
        inside: (B, G, G) bool; each channel's mean is over the cells inside.
        present: (B, K) bool.
    """
    cells = inside[:, None].expand(logits.shape)[present]
    error = F.binary_cross_entropy_with_logits(logits[present], target[present], reduction="none") * cells
    each = error.sum((1, 2)) / cells.sum((1, 2)).clamp_min(1)
    return each.sum() / max(1, len(each))
