"""Points of heat maps: non-maximum suppression on whole batches, and positions finer than a cell."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


@dataclass(frozen=True)
class Peaks:
    """Points of a batch, sorted by image and then by falling score.

    image (P,) int64 index in the batch; xy (P, 2) float32 in cells; score (P,) float32 heat at the cell.
    """

    image: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]


def peaks(heat: torch.Tensor, inside: torch.Tensor, radius: int, threshold: float, cap: int) -> Peaks:
    """Local maxima of heat maps.

    A cell is a point if it is inside, reaches `threshold` and no inside cell of the (2 radius + 1)^2 window around it
    is higher. Of equal cells in one window the first in row-major order stays, so two points are always more than
    `radius` cells apart in x or in y. This differs from greedy suppression, which also keeps a slope's cell once the
    higher one beside it is suppressed: such a cell is no maximum.

    Args:
        heat: (B, G, G) float.
        inside: (B, G, G) bool.
        radius: cells.
        threshold: smallest heat of a point.
        cap: most points an image; the highest stay.
    """
    masked = heat.masked_fill(~inside, -torch.inf)
    top = (masked >= threshold) & inside & (masked == _highest(masked, radius))
    grid = heat.shape[-1]
    rank = torch.arange(grid * grid, 0, -1, dtype=torch.float32, device=heat.device).view(grid, grid) * top
    first = top & (rank == _highest(rank, radius))
    where = first.nonzero()
    score = heat[first].cpu().numpy()
    image, y, x = where.cpu().numpy().T
    order = np.lexsort((-score, image))
    order = order[_rank(image[order]) < cap]
    return Peaks(image[order], np.stack([x, y], axis=1)[order].astype(np.float32), score[order])


def _highest(maps: torch.Tensor, radius: int) -> torch.Tensor:
    """(B, G, G): the highest value in the window around each cell; B may be 0, which torch allows maps of channels."""
    return F.max_pool2d(maps[:, None], 2 * radius + 1, 1, radius)[:, 0]


def _rank(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position 0, 1, ... of each element within its run of equal values; `group` (P,) is sorted."""
    return np.arange(len(group)) - np.searchsorted(group, group)


def quadratic(heat: torch.Tensor, image: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Shift (P, 2) from a cell to the top of the quadratic through its 3 x 3 neighbourhood, at most half a cell.

    The quadratic's gradient and second derivatives are central differences, so a paraboloid's top is found exactly
    whatever its orientation.

    Args:
        heat: (M, G, G) float, -inf where there is no value.
        image: (P,) int64 which map.
        cell: (P, 2) int64 x, y.

    Returns:
        (P, 2) x, y in cells; 0 where a neighbour is missing (border, -inf) or the surface has no top.
    """
    near = _neighbours(heat, image, cell)
    gx, gy = (near[:, 1, 2] - near[:, 1, 0]) / 2, (near[:, 2, 1] - near[:, 0, 1]) / 2
    xx = near[:, 1, 2] - 2 * near[:, 1, 1] + near[:, 1, 0]
    yy = near[:, 2, 1] - 2 * near[:, 1, 1] + near[:, 0, 1]
    xy = (near[:, 2, 2] - near[:, 2, 0] - near[:, 0, 2] + near[:, 0, 0]) / 4
    det = xx * yy - xy**2
    shift = torch.stack([xy * gy - yy * gx, xy * gx - xx * gy], dim=1) / det[:, None]
    has_top = (near.flatten(1).isfinite().all(1) & (det > 0) & (xx < 0))[:, None]
    return torch.where(has_top, shift, 0).clamp(-0.5, 0.5)


def _neighbours(heat: torch.Tensor, image: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """Values (P, 3, 3) around cells (P, 2), rows y and columns x, NaN outside the map."""
    grid = heat.shape[-1]
    step = torch.arange(-1, 2, device=heat.device)
    x = cell[:, None, None, 0] + step[None, None, :]
    y = cell[:, None, None, 1] + step[None, :, None]
    near = heat[image[:, None, None], y.clamp(0, grid - 1), x.clamp(0, grid - 1)]
    return near.masked_fill((x < 0) | (x >= grid) | (y < 0) | (y >= grid), torch.nan)
