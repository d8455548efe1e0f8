"""How training warps and lights crops: the params of `pixel_views.py`, without the code that draws."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.base.params import CLOSED
from uld.images.light import PhotometricParams


@closed(frozen=True, config=CLOSED)
class BendParams:
    """A thin-plate spline through n x n control points, each moved at random."""

    displacement: Annotated[float, Field(ge=0, le=0.5)]  # share of the view's side at most, along x and y; 0: off
    grid: Annotated[int, Field(ge=2, le=16)]  # n


@closed(frozen=True, config=CLOSED)
class WarpParams:
    """How far views differ from the crop; 0 switches a change off."""

    mirror: bool  # whether mirror images are seen too
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees at most, either way
    scale: Annotated[float, Field(ge=0, lt=1)]  # of the factor, from 1 - scale to 1 + scale
    shift: Annotated[float, Field(ge=0, le=1)]  # share of the view's side at most, along x and y
    bend: BendParams


@closed(frozen=True, config=CLOSED)
class PixelViewParams:
    """How training sees crops: each time warped and lit anew."""

    warp: WarpParams
    light: PhotometricParams
