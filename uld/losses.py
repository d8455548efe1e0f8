"""The losses of the family, each by its equation; all take and return tensors and know nothing of files or methods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NEAR = 1e-6  # added to squared distances, so that the gradient of their root is finite at 0
ACTIVE = 0.01  # variance of a unit of a code above which it is active (Burda et al., 2015)


@dataclass(frozen=True)
class Matches:
    """All-pairs matching of two sets of N descriptors, B image pairs at a time.

    lse_a, lse_b (B, N): log of the summed exponentials of the logits of each descriptor of one set against the other
    set. best_a (B, N) int64: the best partner in b of each descriptor of a; best_b: the other way round. Only valid
    descriptors count and are matched; the entries of the others, and all where there is no partner, are 0.
    """

    lse_a: Tensor
    lse_b: Tensor
    best_a: Tensor
    best_b: Tensor


def all_pairs(a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor, temperature: float, chunk: int = 512) -> Matches:
    """Soft and hard matching of every descriptor with every other in O(B x chunk x N) memory.

    The N x N logits a . b / temperature are never held: the backward pass computes each chunk of rows again.

    Args:
        a, b: (B, N, D) of unit length. valid_a, valid_b: (B, N) bool, descriptors that take part.
    """
    return Matches(*_AllPairs.apply(a, b, valid_a, valid_b, temperature, chunk))


class _AllPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, ...]:
        lse_a, lse_b, top_b = (a.new_full(x.shape[:2], -torch.inf) for x in (a, b, b))
        best_a, best_b = (torch.zeros(x.shape[:2], dtype=torch.int64, device=a.device) for x in (a, b))
        for rows, logits in _chunks(a, b, valid_a, valid_b, temperature, chunk):
            lse_a[:, rows], best_a[:, rows] = logits.logsumexp(2), logits.argmax(2)
            lse_b = torch.logaddexp(lse_b, logits.logsumexp(1))
            top, best = logits.max(1)
            best_b = torch.where(top > top_b, best + rows.start, best_b)
            top_b = torch.maximum(top_b, top)
        lse_a, lse_b = (lse.masked_fill(lse == -torch.inf, 0) for lse in (lse_a, lse_b))
        ctx.save_for_backward(a, b, valid_a, valid_b, lse_a, lse_b)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(best_a, best_b)
        return lse_a, lse_b, best_a, best_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        a, b, valid_a, valid_b, lse_a, lse_b = ctx.saved_tensors
        out_a, out_b = torch.empty_like(a), torch.zeros_like(b)
        for rows, logits in _chunks(a, b, valid_a, valid_b, ctx.temperature, ctx.chunk):
            # the softmax of each row and of each column, weighted by the gradients of their sums
            weight = (logits - lse_a[:, rows, None]).exp_().mul_(grad_a[:, rows, None])
            weight += logits.sub_(lse_b[:, None]).exp_().mul_(grad_b[:, None])
            out_a[:, rows] = weight @ b
            out_b.baddbmm_(weight.transpose(1, 2), a[:, rows])
        return out_a / ctx.temperature, out_b / ctx.temperature, None, None, None, None


def _chunks(
    a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor, temperature: float, chunk: int
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a and their logits (B, chunk, N) against all of b, -inf where one of the two is not valid."""
    for start in range(0, a.shape[1], chunk):
        rows = slice(start, start + chunk)
        logits = (a[:, rows] / temperature) @ b.transpose(1, 2)
        yield rows, logits.masked_fill_(~(valid_a[:, rows, None] & valid_b[:, None]), -torch.inf)


def matching_nll(a: Tensor, b: Tensor, matches: Matches, partner: Tensor, temperature: float) -> Tensor:
    """Negative log-likelihood of the true matches in both directions (SiLK, ICCV 2023, descriptor loss).

    Args:
        a, b, matches, temperature: arguments and result of `all_pairs`.
        partner: (B, N) int64, the index in b that each descriptor of a truly matches, -1 where none. Only valid
            descriptors have one, and no two the same.

    Returns:
        Mean over all true matches of -log of the softmax over b and -log of that over a, added; 0 without any.
    """
    image, row = (partner >= 0).nonzero(as_tuple=True)
    column = partner[image, row]
    logit = (a[image, row] * b[image, column]).sum(1) / temperature
    loss = matches.lse_a[image, row] + matches.lse_b[image, column] - 2 * logit
    return loss.sum() / max(1, len(loss))


def round_trips(matches: Matches, partner: Tensor, grid: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Which cells would be found again in the other view: what the SiLK detector learns to predict.

    A cell succeeds if it and its best match choose each other, and that match is true within `tolerance` cells
    in x and in y. No gradient passes.

    Args:
        partner: (B, G * G) int64 as in `matching_nll`. grid: G.

    Returns:
        success_a, success_b (B, G * G) float, NaN for a cell without a true match.
    """
    index = torch.arange(partner.shape[1], device=partner.device)
    mutual = matches.best_b.gather(1, matches.best_a) == index
    off_x = (matches.best_a % grid - partner % grid).abs()
    off_y = (matches.best_a // grid - partner // grid).abs()
    success = (mutual & (off_x <= tolerance) & (off_y <= tolerance)).float()
    image, row = (partner >= 0).nonzero(as_tuple=True)
    success_a, success_b = torch.full_like(success, torch.nan), torch.full_like(success, torch.nan)
    success_a[image, row] = success_b[image, partner[image, row]] = success[image, row]
    return success_a, success_b


def detector_bce(logits: Tensor, success: Tensor) -> Tensor:
    """Mean binary cross entropy of detector logits against 0 or 1, over the entries that are not NaN; 0 without any."""
    known = ~success.isnan()
    total = F.binary_cross_entropy_with_logits(logits[known], success[known], reduction="sum")
    return total / known.sum().clamp_min(1)


def detector_mse(heat: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Mean squared error of heat maps (B, G, G) against rendered points, over the cells inside; 0 without any.

    The detector loss of D-ULD (CVPR 2024).
    """
    return F.mse_loss(heat[inside], target[inside], reduction="sum") / inside.sum().clamp_min(1)


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


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances of the rows of a and b (B, C), of those rows alone where b is not NaN."""
    known = ~b.isnan().any(1)
    return ((a[known] - b[known]).square().sum(1) + NEAR).sqrt()


def active_units(mu: Tensor) -> int:
    """How many units of codes (n, C) differ between images: variance over the images above 0.01."""
    return int((mu.var(0, correction=0) > ACTIVE).sum())
