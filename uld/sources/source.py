"""What a model says of images in a view: what methods cluster and search."""

import numpy as np
import torch
from numpy.typing import NDArray

from uld.base import runtime
from uld.base.errors import ULDError
from uld.geometry.frames import Rows
from uld.models.base import Maps, Model
from uld.sources.views import View, Views


class Source:
    """A model over views of images."""

    def __init__(self, model: Model, views: Views) -> None:
        """Nothing is read yet."""
        self.model, self.views = model, views
        self._names = model.maps_read()

    @property
    def grid(self) -> int:
        """G."""
        return self.model.grid

    @property
    def detects(self) -> bool:
        """Whether the model has heat maps."""
        return self.model.channels > 0

    @property
    def encodes(self) -> bool:
        """Whether the model has pose codes."""
        return self.model.encodes

    @torch.no_grad()
    def describe(self, rows: Rows, view: View) -> torch.Tensor:
        """Descriptors (B, D, G, G) of unit length."""
        return self.model.describe(self.views.inputs(rows, view, self._names))

    @torch.no_grad()
    def maps(self, rows: Rows, view: View) -> Maps:
        """All that the model says.

        Raises:
            ULDError: the model has no detector.
        """
        if not self.detects:
            raise ULDError("this model has no detector: begin at a start that is trained, or at a round.")
        maps: Maps = self.model(self.views.inputs(rows, view, self._names))
        return maps

    def inside(self, rows: Rows, view: View) -> torch.Tensor:
        """(B, G, G) bool: cells in the object box that show the photograph and not padding."""
        return torch.from_numpy(self.views.frames.inside(rows, view.affine)).to(runtime.device())

    def to_image(self, rows: Rows, xy: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """Points (B, P, 2) from cells of a view to image pixels."""
        return self.views.frames.to_image(rows, xy, view.affine)

    def to_cells(self, rows: Rows, xy: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """Points (B, P, 2) from image pixels to cells of a view."""
        return self.views.frames.to_cells(rows, xy, view.affine)
