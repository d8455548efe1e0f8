"""Descriptors of images on a grid, from the feature store or computed on the spot: `methods.base.Source`."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from uld import coords, runtime
from uld.coords import Affine
from uld.crops import Crops
from uld.features.extract import as_images
from uld.features.extractor import Extractor
from uld.features.reduce import Reduction
from uld.features.store import FeatureStore
from uld.models.frozen import FrozenHead

Rows = NDArray[np.int64]


class Frames:
    """Where cells of views lie in the photographs.

    Args:
        affine: (N, 2, 3), image -> crop. boxes: (N, 4) object boxes. views: (V, 2, 3), crop -> view.
        inside: rows -> (B, S, S) bool, False where the crop leaves the photograph.
        size: S. grid: G.
    """

    def __init__(
        self,
        affine: Affine,
        boxes: NDArray[np.float64],
        views: Affine,
        inside: Callable[[Rows], NDArray[np.bool_]],
        size: int,
        grid: int,
    ) -> None:
        self.affine, self.boxes, self.views, self.size, self.grid = affine, boxes, views, size, grid
        self._inside = inside

    def to_image(self, rows: Rows, xy: NDArray[np.float32], view: int) -> NDArray[np.float32]:
        """Points (B, P, 2) in cells of a view -> image pixels."""
        crop = coords.apply(self._cell_to_crop(view), xy)
        return coords.apply(coords.invert(self.affine[rows]), crop)

    def inside(self, rows: Rows, view: int = 0) -> NDArray[np.bool_]:
        """(B, G, G): cells whose centre lies in the photograph and in the object box (the margin is context only)."""
        cells = coords.cells(self.grid)
        crop = coords.apply(self._cell_to_crop(view), cells[None])[0]
        x, y = np.rint(crop).astype(np.int64).T
        seen = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        photo = self._inside(rows)[:, y.clip(0, self.size - 1), x.clip(0, self.size - 1)] & seen
        at = self.to_image(rows, np.broadcast_to(cells, (len(rows), *cells.shape)), view)
        low, high = self.boxes[rows, None, :2], self.boxes[rows, None, 2:]
        box = ((at >= low) & (at <= high)).all(2)
        return np.asarray(photo & box).reshape(len(rows), self.grid, self.grid)

    def _cell_to_crop(self, view: int) -> Affine:
        return coords.compose(coords.invert(self.views[view]), coords.resize(self.grid, self.size))


class GridSource:
    """Frames and a function (rows, view) -> descriptors (B, D, G, G)."""

    def __init__(
        self, frames: Frames, describe: Callable[[Rows, int], torch.Tensor], mirrored: NDArray[np.bool_]
    ) -> None:
        self.views, self.mirrored = frames.views, mirrored  # (V, 2, 3) crop -> view; (V,)
        self._frames, self._describe = frames, describe

    @property
    def grid(self) -> int:
        """G."""
        return self._frames.grid

    @torch.no_grad()
    def describe(self, rows: Rows, view: int = 0) -> torch.Tensor:
        """(B, D, G, G) of unit length."""
        return self._describe(rows, view)

    def inside(self, rows: Rows, view: int = 0) -> torch.Tensor:
        """(B, G, G) bool."""
        return torch.from_numpy(self._frames.inside(rows, view)).to(runtime.device())

    def to_image(self, rows: Rows, xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Cells (B, P, 2) -> image pixels."""
        return self._frames.to_image(rows, xy, view)


def frames(store: FeatureStore, crops: Crops, boxes: pd.DataFrame, grid: int) -> Frames:
    """Geometry of all rows and views of a store.

    Raises:
        ArtifactError: the store was made of other crops.
    """
    store.check(crops=crops.fingerprint())
    return Frames(crops.affine, corners(boxes), store.views, crops.inside, crops.size, grid)


def from_store(store: FeatureStore, head: FrozenHead, crops: Crops, boxes: pd.DataFrame) -> GridSource:
    """Source over all rows and views of a feature store."""
    place = frames(store, crops, boxes, head.grid)
    return GridSource(place, lambda rows, view: head(store.read(rows, view)), store.mirrored)


def live(
    extractor: Extractor,
    reduction: Reduction | None,
    head: FrozenHead,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    affine: Affine,
    boxes: NDArray[np.float64],
) -> GridSource:
    """Source that runs the network on crops (B, S, S, 3) in memory; untouched view only."""
    size = pixels.shape[1]
    identity = coords.view(size)[None]
    place = Frames(affine, boxes, identity, lambda rows: inside[rows], size, head.grid)

    def describe(rows: Rows, view: int) -> torch.Tensor:
        found = extractor(as_images(pixels[rows], extractor.backbone.alphas.device))
        found = found if reduction is None else reduction(found)
        # through float16, as the store keeps them: a photograph gets the coordinates that the pipeline gave it
        return head({name: value.half().float() for name, value in found.items()})

    return GridSource(place, describe, np.zeros(1, bool))


def corners(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """(N, 4) x1, y1, x2, y2 of boxes.csv."""
    return boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
