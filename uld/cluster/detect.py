"""Points of heat maps with their descriptors."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld import coords, nms
from uld.params import CLOSED

MAPS = 128  # descriptor maps that points are read from at a time


@closed(frozen=True, config=CLOSED)
class DetectParams:
    """Which maxima of a heat map are points."""

    radius: Annotated[int, Field(ge=1)]  # cells in x and in y within which only the highest stays
    threshold: Annotated[float, Field(ge=0, le=1)]
    least: Annotated[int, Field(ge=0)]  # so many highest maxima are points even below the threshold
    cap: Annotated[int, Field(ge=1)]  # most points an image


@dataclass(frozen=True)
class Points:
    """P points: image (P,) index in the batch; xy (P, 2) in cells; score (P,) heat; descriptor (P, D), unit length."""

    image: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    descriptor: NDArray[np.float32]


def detect(descriptors: torch.Tensor, heat: torch.Tensor, inside: torch.Tensor, params: DetectParams) -> Points:
    """Local maxima inside, moved to the top of the quadratic around them.

    Args:
        descriptors: (B, D, G, G). heat: (B, G, G) in [0, 1]. inside: (B, G, G) bool.
    """
    found = nms.peaks(heat, inside, params.radius, 0, max(params.cap, params.least))
    rank = np.arange(len(found.image)) - np.searchsorted(found.image, found.image)
    kept = ((found.score >= params.threshold) & (rank < params.cap)) | (rank < params.least)
    image, score = found.image[kept], found.score[kept]
    index = torch.from_numpy(image).to(heat.device)
    cell = torch.from_numpy(found.xy[kept]).to(heat.device)
    xy = cell + nms.quadratic(heat, index, cell.long())
    read = [
        coords.sample(descriptors[some], at[:, None])[:, 0]
        for some, at in zip(index.split(MAPS), xy.split(MAPS), strict=True)
    ]
    table = F.normalize(torch.cat(read), dim=1)
    return Points(image, xy.cpu().numpy(), score, table.cpu().numpy())
