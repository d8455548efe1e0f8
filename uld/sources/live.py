"""Photographs that are no part of a data set: their crops in memory, as they are or in a mirror."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uld.base import runtime
from uld.geometry import coords
from uld.geometry.coords import Affine
from uld.geometry.frames import Frames, Rows
from uld.images import Pixels
from uld.images.crops import as_images
from uld.models.base import Inputs
from uld.sources.views import View, Views

Reader = Callable[[Tensor], Inputs]  # images (B, 3, S, S) in [0, 1] -> what a model reads


class LiveViews(Views):
    """Crops (B, S, S, 3) in memory."""

    def __init__(
        self,
        read: Reader,
        pixels: Pixels,
        inside: NDArray[np.bool_],
        affine: Affine,
        boxes: NDArray[np.float64],
        grid: int,
    ) -> None:
        """Nothing is computed yet.

        Args:
            inside: (B, S, S), False where a crop leaves its photograph. affine: (B, 2, 3), image -> crop.
            boxes: (B, 4) object boxes. grid: G.
        """
        size = pixels.shape[1]
        self._read, self._pixels = read, pixels
        self.frames = Frames(affine, boxes, lambda rows: inside[rows], size, grid)
        self.plain = View(coords.view(size), flipped=False)
        self.flips, self.turned, self.evaluation = [self.plain], [], []

    def inputs(self, rows: Rows, view: View, names: list[str]) -> Inputs:
        """What the model reads of photographs as they are or in a mirror."""
        images = as_images(self._pixels[rows], runtime.device())
        return self._read(images.flip(-1) if view.flipped else images)
