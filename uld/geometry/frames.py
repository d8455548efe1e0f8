"""Where cells of views lie in the photographs."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.geometry import coords
from uld.geometry.coords import Affine

Rows = NDArray[np.int64]


class Frames:
    """Image, crop, view and grid of N images; a view is given by its affine (2, 3), crop -> view.

    Args:
        affine: (N, 2, 3), image -> crop. boxes: (N, 4) object boxes.
        inside: rows -> (B, S, S) bool, False where the crop leaves the photograph.
        size: S. grid: G.
    """

    def __init__(
        self,
        affine: Affine,
        boxes: NDArray[np.float64],
        inside: Callable[[Rows], NDArray[np.bool_]],
        size: int,
        grid: int,
    ) -> None:
        self.affine, self.boxes, self.size, self.grid = affine, boxes, size, grid
        self._inside = inside

    def to_image(self, rows: Rows, xy: NDArray[np.float32], view: Affine) -> NDArray[np.float32]:
        """Points (B, P, 2) in cells of a view -> image pixels."""
        return self.crop_to_image(rows, coords.apply(self._cell_to_crop(view), xy))

    def crop_to_image(self, rows: Rows, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (B, P, 2) in pixels of the crops -> image pixels."""
        return coords.apply(coords.invert(self.affine[rows]), xy)

    def to_cells(self, rows: Rows, xy: NDArray[np.float32], view: Affine) -> NDArray[np.float32]:
        """Points (B, P, 2) in image pixels -> cells of a view (2, 3), or of a view each (B, 2, 3)."""
        return coords.apply(coords.invert(self._cell_to_crop(view)), coords.apply(self.affine[rows], xy))

    def between(self, first: Affine, second: Affine, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (P, 2) from cells of one view to cells of another one of the same image."""
        return coords.apply(coords.compose(coords.invert(self._cell_to_crop(second)), self._cell_to_crop(first)), xy)

    def inside(self, rows: Rows, view: Affine) -> NDArray[np.bool_]:
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

    def _cell_to_crop(self, view: Affine) -> Affine:
        return coords.compose(coords.invert(view), coords.resize(self.grid, self.size))


def corners(boxes: pd.DataFrame) -> NDArray[np.float64]:
    """(N, 4) x1, y1, x2, y2 of boxes.csv."""
    return boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
