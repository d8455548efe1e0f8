"""Descriptors learn by contrast: a point is itself in another view, and nothing else in its own (D-ULD, section 3.2).

What the warm-up of a start and the rounds of self-training have in common.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.geometry import sampling
from uld.losses import duld
from uld.sources.views import Batch


def contrast(
    descriptors: Tensor, xy: Tensor, cells: Tensor, inside: Tensor, margin: float, min_distance: float
) -> Tensor:
    """Mean of all `terms`, attracting and repelling ones alike; 0 without any."""
    positive, negative = terms(descriptors, xy, cells, inside, margin, min_distance)
    return (positive.sum() + negative.sum()) / max(1, len(positive) + len(negative))


def terms(
    descriptors: Tensor, xy: Tensor, cells: Tensor, inside: Tensor, margin: float, min_distance: float
) -> tuple[Tensor, Tensor]:
    """Terms of the contrastive loss: same point in the two views of a pair, other places within a view.

    Args:
        descriptors: (2P, D, G, G) of unit length. xy: (2P, K, 2) in cells, NaN where absent. cells: (2P, n, 2) cells.
        inside: (2P, G, G) bool. margin: of the distance of descriptors. min_distance: in cells.

    Returns:
        positive (A,): squared distances. negative (B,): squared shortfalls from the margin, for pairs of places that
        are more than `min_distance` cells from each other.
    """
    known = within(xy, descriptors.shape[-1])
    xy = xy.masked_fill(~known[..., None], 0)
    here = F.normalize(sampling.sample(descriptors, xy), dim=2)
    there = sampling.sample(descriptors, cells)
    first, second = here.chunk(2)
    both = known[: len(first)] & known[len(first) :]
    positive = duld.attract(first[both], second[both])
    valid = shown(cells, inside)
    far = (torch.cdist(xy, xy) > min_distance) & known[:, :, None] & known[:, None]
    far_cells = (torch.cdist(xy, cells) > min_distance) & known[:, :, None] & valid[:, None]
    # chosen before they are compared: of many points an image shows few
    negative = []
    for apart, others in ((far, here), (far_cells, there)):
        view, one, other = apart.nonzero(as_tuple=True)
        negative.append(duld.repel(here[view, one], others[view, other], margin))
    return positive, torch.cat(negative)


def draw_cells(batch: Batch, count: int, rng: np.random.Generator) -> Tensor:
    """Random cells (B, count, 2) of the views of a batch, for `terms`."""
    cells = rng.integers(0, batch.inside.shape[-1], (len(batch.rows), count, 2)).astype(np.float32)
    return torch.from_numpy(cells).to(batch.inside.device)


def within(xy: Tensor, grid: int) -> Tensor:
    """Which points (..., 2) in cells are there and lie in a view of `grid` cells a side: (...) bool."""
    return (xy.isfinite() & (xy > -0.5) & (xy < grid - 0.5)).all(-1)


def shown(xy: Tensor, inside: Tensor) -> Tensor:
    """Which points (B, K, 2) in cells lie in a cell that is inside (B, G, G): (B, K) bool."""
    known = within(xy, inside.shape[-1])
    column, row = xy.masked_fill(~known[..., None], 0).round().long().unbind(2)
    return known & inside[torch.arange(len(xy), device=xy.device)[:, None], row, column]
