"""Heat maps averaged over warps of an image (data distillation; Mallis, thesis, 2023, section 4.2.3).

A place of the background rarely looks like a point under every warp; a point of the object does. The thesis names
crops, rotations and the mirror image, and no ranges.
"""

from itertools import product
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords, sampling
from uld.geometry.frames import Rows
from uld.sources.source import Source
from uld.sources.views import View

Scale = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=CLOSED)
class DistilParams:
    """Which warps: every turn with every scale. The image as it is takes part where 0 is a turn and 1 a scale."""

    turns: Annotated[tuple[float, ...], Field(min_length=1)]  # degrees, x towards y
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)]  # above 1: a crop around the middle
    mirror: bool  # whether the mirror image of each takes part


def heat(source: Source, rows: Rows, view: View, p: DistilParams | None) -> torch.Tensor:
    """Heat (B, G, G) of a model with one heat map.

    Each cell has the mean over the warps that show it, 0 where none does.

    Args:
        p: None: the heat of the view alone.

    Raises:
        ULDError: the model reads features, which are not there under any warp.
    """
    if p is None:
        return source.maps(rows, view).heat[:, 0]
    if not source.model.reads_pixels:
        raise ULDError(
            "a model of features sees no image under any warp: set methods.*.cluster.distil to null, or let the rounds "
            "start from a model that reads roi/crops."
        )
    total = torch.zeros(())
    seen = torch.zeros(())
    for warp in warps(source, view, p):
        there = source.maps(rows, warp).heat
        at, shown = (torch.from_numpy(part).to(there.device) for part in where(source, view, warp))
        back = sampling.sample(there[:, :1], at.expand(len(rows), *at.shape))[..., 0]
        total, seen = total.to(back) + back * shown, seen.to(back) + shown
    return (total / seen.clamp_min(1)).unflatten(1, (source.grid, source.grid))


def warps(source: Source, view: View, p: DistilParams) -> list[View]:
    """The warps of a view."""
    size, found = source.views.frames.size, []
    for turn, scale in product(p.turns, p.scales):
        warp = coords.view(size, rotate=turn, scale=scale)
        found.append(View(coords.compose(warp, view.affine), view.flipped))
    return found + [source.views.mirror(one) for one in found if p.mirror]


def where(source: Source, view: View, warp: View) -> tuple[coords.Points, NDArray[np.bool_]]:
    """Where a warp shows the cells of a view: cells (G * G, 2), and which of them it does show (G * G,)."""
    at = source.views.frames.between(view.affine, warp.affine, coords.cells(source.grid))
    return at, np.asarray(((at >= -0.5) & (at <= source.grid - 0.5)).all(1))
