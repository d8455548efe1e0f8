"""Random positions inside the ROI of training images (D-ULD, section 3.1)."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.base import progress
from uld.base.params import CLOSED
from uld.geometry import sampling
from uld.sources.source import Source
from uld.sources.views import View

log = logging.getLogger(__name__)


@closed(frozen=True, config=CLOSED)
class DrawParams:
    """How many random pixels are drawn."""

    points: Annotated[int, Field(ge=1)]  # random pixels an image and flip
    max_points: Annotated[int, Field(ge=1)]  # in total


@dataclass(frozen=True)
class Draw:
    """n positions in each of B images: rows (B,) of boxes.csv and uniform (B, n, 3) numbers in [0, 1)."""

    rows: NDArray[np.int64]
    uniform: NDArray[np.float32]

    @property
    def image(self) -> NDArray[np.int64]:
        """Row (B * n,) of each position, in the order of `batches`."""
        return np.repeat(self.rows, self.uniform.shape[1])

    def batches(self, source: Source, view: View) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Batch by batch, rows (b,) and positions xy (b, n, 2) in cells. They do not depend on the batch size."""
        done = 0
        for rows in progress.batches("drawing points", self.rows):
            uniform = torch.from_numpy(self.uniform[done : done + len(rows)])
            yield rows, place(source.inside(rows, view), uniform)
            done += len(rows)


def draw(rows: NDArray[np.int64], params: DrawParams, rng: np.random.Generator) -> Draw:
    """Plan `points` positions in each image of `rows` (N,), but at most `max_points` in total.

    Above that there are fewer points an image; if even one in each image is too many, so many images are drawn.
    """
    points, cap = params.points, params.max_points
    wanted = len(rows) * points
    if len(rows) > cap:
        rows = np.sort(rng.choice(rows, cap, replace=False))
    each = min(points, cap // max(1, len(rows)))
    if len(rows) * each < wanted:
        log.warning("%d points in each of %d images: the cap is %d points in total", each, len(rows), cap)
    return Draw(rows, rng.random((len(rows), each, 3), dtype=np.float32))


def place(inside: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Positions (B, n, 2) x, y spread evenly over the area of the cells inside.

    Args:
        inside: (B, G, G) bool; an image without any cell inside counts as wholly inside.
        uniform: (B, n, 3) in [0, 1): which cell, and where in it in x and in y.
    """
    uniform = uniform.to(inside.device)
    grid = inside.shape[-1]
    roi = inside.flatten(1)
    reached = (roi | ~roi.any(dim=1, keepdim=True)).long().cumsum(dim=1)
    count = reached[:, -1:]
    # float32 may round up to the count itself
    nth = torch.minimum((uniform[..., 0] * count).long(), count - 1)
    cell = torch.searchsorted(reached, nth, right=True)
    return torch.stack([cell % grid, cell // grid], dim=2) + uniform[..., 1:] - 0.5


def describe(source: Source, positions: Draw, view: View) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions (M, 2) in cells of a view and their bilinear descriptors (M, D) of unit length."""
    xy = np.empty((positions.uniform[..., 0].size, 2), dtype=np.float32)
    x = np.empty((0, 0), dtype=np.float32)
    done = 0
    for rows, at in positions.batches(source, view):
        part = F.normalize(sampling.sample(source.describe(rows, view), at), dim=2).flatten(0, 1).cpu().numpy()
        if not done:
            x = np.empty((len(xy), part.shape[1]), dtype=np.float32)
        xy[done : done + len(part)] = at.flatten(0, 1).cpu().numpy()
        x[done : done + len(part)] = part
        done += len(part)
    return xy, x
