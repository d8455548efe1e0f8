"""The losses of D-ULD and D-ULD++ (CVPR 2024), sections 3.2 and 3.3."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 1e-6  # added to squared distances, so that the gradient of their root is finite at 0
ACTIVE = 0.01  # variance of a unit of a code above which it is active (Burda et al., 2015)


def detector_mse(heat: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Mean squared error of heat maps (B, G, G) against rendered points, over the cells inside; 0 without any.

    The detector loss of D-ULD (CVPR 2024).
    """
    return F.mse_loss(heat[inside], target[inside], reduction="sum") / inside.sum().clamp_min(1)


def attract(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (...) of descriptor pairs (..., D) of one landmark: first half of the contrastive loss."""
    return ((a - b) ** 2).sum(-1)


def repel(a: Tensor, b: Tensor, margin: float) -> Tensor:
    """Squared shortfalls (...) of the distances of descriptor pairs (..., D) from the margin: the second half."""
    # unlike that of a square root, the gradient of the norm is 0 and not infinite at distance 0
    return F.relu(margin - torch.linalg.vector_norm(a - b, dim=-1)) ** 2


def elbo(
    logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, beta: float, free: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative evidence lower bound of a variational autoencoder of heat maps (D-ULD++, CVPR 2024, section 3.3.1).

    The cross entropy is summed and not averaged over the cells: of an average the KL term would be the larger part, and
    the code would say nothing. Free bits per unit, over a batch, are those of Kingma et al. (NeurIPS 2016).

    Args:
        logits, target: (B, 1, G, G), the target in [0, 1].
        mu, logvar: (B, C) of the code, a normal distribution with independent units.
        beta: weight of the KL term. free: nats; a unit whose KL is below counts as that and is not pulled further.

    Returns:
        loss, its reconstruction term and its KL term without the weight; each is a mean over images.
    """
    images = max(1, len(mu))
    reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / images
    unit = (mu.square() + logvar.exp() - 1 - logvar).sum(0) / (2 * images)
    kl = unit.clamp_min(free).sum()
    return reconstruction + beta * kl, reconstruction, kl


def pose_contrast(code: Tensor, same: Tensor, other: Tensor, margin: float) -> Tensor:
    """Mean distance of codes of one pose plus mean shortfall of those of two poses (D-ULD++, CVPR 2024, equation 3).

    Unlike `attract` and `repel`, neither is squared.

    Args:
        code: (B, C). same: (B, C), a code of the same pose. other: (B, C), a code of another pose. A row of NaN where
            an image has none; it counts in no mean, and a mean over nothing is 0.
        margin: distance from which on codes of two poses are far enough from each other.
    """
    pull = _distance(code, same)
    push = F.relu(margin - _distance(code, other))
    return pull.sum() / max(1, len(pull)) + push.sum() / max(1, len(push))


def within_margin(code: Tensor, other: Tensor, margin: float) -> Tensor:
    """Share of the codes (B, C) that are nearer to a code of another pose (B, C) than the margin: those that it moves.

    0 where there are none to compare with.
    """
    distance = _distance(code.detach(), other.detach())
    return (distance < margin).sum() / max(1, len(distance))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances of the rows of a and b (B, C), of those rows alone where b is not NaN."""
    known = ~b.isnan().any(1)
    return ((a[known] - b[known]).square().sum(1) + NEAR).sqrt()


def active_units(mu: Tensor) -> int:
    """How many units of codes (n, C) differ between images: variance over the images above 0.01."""
    return int((mu.var(0, correction=0) > ACTIVE).sum())
