"""The warps in which evaluation looks at test images."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base import random
from uld.base.params import CLOSED
from uld.geometry import coords
from uld.geometry.coords import Affine


@dataclass(frozen=True, config=CLOSED)
class EvaluationWarps:
    """Warps of test images that tell how stable landmarks are; drawn once, the same for all images and all rows."""

    count: Annotated[int, Field(ge=0)]  # E; 0: stability is not measured
    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees, at most, either way
    scale: Annotated[float, Field(ge=0, lt=1)]  # share by which a warp enlarges or shrinks the crop, at most
    shift: Annotated[float, Field(ge=0, lt=0.5)]  # share of the crop's side, at most, in x and in y


def draw(params: EvaluationWarps, seed: int, size: int) -> Affine:
    """(E, 2, 3) crop -> view: rotated and scaled about the crop's centre, then shifted; never mirrored.

    They follow from the seed and nothing else, so that every row and every project is measured on the same ones; more
    of them begin with the same ones.

    Args:
        size: S, the crop's side in pixels.
    """
    shares = random.rng(seed, "evaluation-warps").uniform(-1, 1, (params.count, 4))
    return np.array([_warp(params, share, size) for share in shares]).reshape(-1, 2, 3)


def _warp(params: EvaluationWarps, share: NDArray[np.float64], size: int) -> Affine:
    """(2, 3): `share` (4,) in -1..1 of the largest rotation, scaling and shifts in x and y."""
    affine = coords.view(size, False, params.rotate * share[0], 1 + params.scale * share[1])
    affine[:, 2] += params.shift * size * share[2:]
    return affine
