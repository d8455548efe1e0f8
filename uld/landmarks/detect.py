"""Points of heat maps with their descriptors."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.base.params import CLOSED
from uld.geometry import peaks, sampling

FAINT = 1e-4  # heat below which all cells are alike


@closed(frozen=True, config=CLOSED)
class PeakParams:
    """Which maxima of a heat map are points."""

    radius: Annotated[int, Field(ge=1)]  # cells in x and in y within which only the highest maximum stays
    threshold: Annotated[float, Field(ge=0, le=1)]  # lowest heat of a point
    min_points: Annotated[int, Field(ge=0)]  # so many highest maxima of an image are points even below the threshold
    max_points: Annotated[int, Field(ge=1)]  # an image


@closed(frozen=True, config=CLOSED)
class DetectParams(PeakParams):
    """Which maxima of a heat map are points, and what the heat says of other places."""

    # a dense match maximises cosine + heat_weight x log(heat); 0: the cosine alone
    heat_weight: Annotated[float, Field(ge=0)]

    def prior(self, heat: torch.Tensor) -> torch.Tensor:
        """What dense matches add to similarities: (B, 1, G, G) of heat (B, C, G, G) in [0, 1]."""
        return self.heat_weight * heat.amax(1, keepdim=True).clamp_min(FAINT).log()


@dataclass(frozen=True)
class Points:
    """P points: image (P,) index in the batch; xy (P, 2) in cells; score (P,) heat; descriptor (P, D), unit length."""

    image: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptor: NDArray[np.float32]


def detect(descriptors: torch.Tensor, heat: torch.Tensor, inside: torch.Tensor, params: PeakParams) -> Points:
    """Local maxima inside, moved to the top of the quadratic around them.

    Args:
        descriptors: (B, D, G, G). heat: (B, G, G) in [0, 1]. inside: (B, G, G) bool.
    """
    image, xy, score = maxima(heat, inside, params)
    index = torch.from_numpy(image).to(heat.device)
    table = F.normalize(sampling.sample_each(descriptors, index, xy), dim=1)
    return Points(image, xy.cpu().numpy(), score, table.cpu().numpy())


def maxima(
    heat: torch.Tensor, inside: torch.Tensor, params: PeakParams
) -> tuple[NDArray[np.int64], torch.Tensor, NDArray[np.float32]]:
    """The points of `detect` alone, sorted by image and then by falling heat.

    Returns:
        image (P,) index in the batch, xy (P, 2) in cells on the device, score (P,) heat.
    """
    found = peaks.peaks(heat, inside, params.radius, 0, max(params.max_points, params.min_points))
    rank = np.arange(len(found.image)) - np.searchsorted(found.image, found.image)
    kept = ((found.score >= params.threshold) & (rank < params.max_points)) | (rank < params.min_points)
    image, score = found.image[kept], found.score[kept]
    cell = torch.from_numpy(found.xy[kept]).to(heat.device)
    return image, cell + peaks.quadratic(heat, torch.from_numpy(image).to(heat.device), cell.long()), score
