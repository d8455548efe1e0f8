"""The losses of SiLK (ICCV 2023): all-pairs matching of descriptors, and a detector of what is found again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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
