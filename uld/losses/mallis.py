"""The losses of Mallis (thesis, 2023), chapters 5 and 6."""

import torch.nn.functional as F
from torch import Tensor

from uld.losses import duld


def channel_bce(logits: Tensor, target: Tensor, inside: Tensor, present: Tensor) -> Tensor:
    """Mean binary cross entropy of heat maps, a channel a landmark, over the channels that are present; 0 without any.

    In place of `channel_mse`: both are least for the same heat, but under the squared error a channel that is dark
    everywhere has next to no gradient, and can stay so. A rare landmark weighs no less for being absent elsewhere.

    Args:
        logits, target: (B, K, G, G), the target in [0, 1].
        inside: (B, G, G) bool; each channel's mean is over the cells inside.
        present: (B, K) bool.
    """
    cells = inside[:, None].expand(logits.shape)[present]
    error = F.binary_cross_entropy_with_logits(logits[present], target[present], reduction="none") * cells
    each = error.sum((1, 2)) / cells.sum((1, 2)).clamp_min(1)
    return each.sum() / max(1, len(each))


def channel_mse(logits: Tensor, target: Tensor, inside: Tensor, present: Tensor) -> Tensor:
    """Half the mean squared error of heat maps, where absent channels count as right (Mallis, thesis, chapter 6).

    The loss of the second stage: an absent landmark teaches nothing, and a rare one weighs less.

    Args:
        logits, target, inside, present: as in `channel_bce`.
    """
    error = (logits.sigmoid() - target).square() * inside[:, None] * present[..., None, None]
    cells = inside.sum((1, 2)).clamp_min(1)
    return (error.sum((2, 3)) / cells[:, None]).mean() / 2


def present_mse(logits: Tensor, target: Tensor, inside: Tensor, present: Tensor) -> Tensor:
    """Mean squared error of heat maps over the channels that are present; 0 without any (Mallis, thesis, equation 5.4).

    Unlike in `channel_mse`, a rare landmark weighs no less for being absent elsewhere.

    Args:
        logits, target, inside, present: as in `channel_bce`.
    """
    cells = inside[:, None].expand(logits.shape)[present]
    error = (logits[present].sigmoid() - target[present]).square() * cells
    each = error.sum((1, 2)) / cells.sum((1, 2)).clamp_min(1)
    return each.sum() / max(1, len(each))


def cross_contrast(first: Tensor, second: Tensor, both: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Contrastive loss of points across the two views of a pair (Mallis, thesis, equation 5.3); 0 without any point.

    The hinge is squared and on the distance, as in the author's code; the thesis has it on the squared distance. The
    mean is over pairs of points, attracting and repelling ones alike.

    Args:
        first, second: (P, K, D) descriptors of the K landmarks in either view. both: (P, K) bool, landmarks that both
            views of a pair have: their points are drawn together.
        negative: (N, 3) int64, pair, landmark in the first view and another one in the second: pushed apart.
        margin: distance from which on two points are far enough apart.
    """
    pair, one, other = negative.unbind(1)
    positive = duld.attract(first[both], second[both])
    apart = duld.repel(first[pair, one], second[pair, other], margin)
    return (positive.sum() + apart.sum()) / max(1, len(positive) + len(apart))
