"""What a detector of points is, the grey image that many of them look at, and suppression of points that crowd."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from uld.geometry.frames import Rows
from uld.sources.views import View, Views

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B in ITU-R BT.601


class Keypoints(ABC):
    """Finds conspicuous points in images, without knowing what they show."""

    Params: ClassVar[type[Any]]  # the detector's block of params
    remedy: ClassVar[str] = "lower its threshold"  # where it finds no point at all

    @abstractmethod
    def __init__(self, params: Any) -> None: ...

    def of(self, views: Views, rows: Rows, view: View) -> "Keypoints":
        """The detector for these images (B,) as a view shows them; one that looks at images need not know which."""
        return self

    @abstractmethod
    def __call__(self, images: Tensor) -> list[NDArray[np.float32]]:
        """Points of each image, independent of the other images of the batch.

        Args:
            images: (B, 3, S, S) float RGB in [0, 1], S at least 8.

        Returns:
            B arrays (P, 3) of x, y in pixels and score, sorted by falling score; P may be 0.
        """

    @abstractmethod
    def describe(self, images: Tensor, points: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """What points look like, as vectors whose distance says how alike two places are.

        Args:
            images: as above. points: B arrays (P, 2 or more), x and y first, in pixels of the images.

        Returns:
            B arrays (P, D) of unit length.
        """


def grey(images: Tensor, scale: int) -> Tensor:
    """Luma of RGB images (B, 3, S, S), enlarged bilinearly -> (B, 1, scale S, scale S)."""
    luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return F.interpolate(luma, scale_factor=scale, mode="bilinear", align_corners=False)


def apart(xy: NDArray[np.float32], radius: float, most: int) -> NDArray[np.int64]:
    """Greedy suppression: which of the points (P, 2), the best first, stay when each takes a square around it.

    Args:
        xy: in any unit. radius: half a side of the square, in it. most: points that stay, at most.

    Returns:
        Their indices, rising.
    """
    kept: list[int] = []
    free = np.ones(len(xy), dtype=bool)
    while free.any() and len(kept) < most:
        kept.append(int(free.argmax()))
        free &= np.abs(xy - xy[kept[-1]]).max(1) > radius
    return np.array(kept, dtype=np.int64)
