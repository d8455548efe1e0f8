"""Fixed views of crops: what a model that reads images sees of whole sets of them."""

import torch
from torch import Tensor

from uld.base import runtime
from uld.geometry import sampling
from uld.geometry.frames import Frames, Rows
from uld.images.crops import Crops, as_images
from uld.models.base import Inputs
from uld.sources.views import View, Views


class CropViews(Views):
    """The crops of a data set in given views."""

    def __init__(
        self, crops: Crops, frames: Frames, flips: list[View], turned: list[View], evaluation: list[View]
    ) -> None:
        """Nothing is read yet; the first of `flips` is the plain view."""
        self._crops, self.frames = crops, frames
        self.plain, self.flips, self.turned, self.evaluation = flips[0], flips, turned, evaluation

    def inputs(self, rows: Rows, view: View, names: list[str]) -> Inputs:
        """Images (B, 3, S, S) in [0, 1]."""
        return seen(self._crops, rows, view, runtime.device())


def seen(crops: Crops, rows: Rows, view: View, device: torch.device) -> Tensor:
    """Crops of `rows` in a view: (B, 3, S, S) in [0, 1]."""
    return sampling.warp(as_images(crops.images(rows), device), view.affine)
