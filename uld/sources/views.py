"""Where clustering and training see images: views of their crops. A view is a warp.

`Views` shows whole sets of images in a few fixed views; `TrainingViews` also draws a view for each image of a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uld.base import ranks, runtime
from uld.geometry import coords, warps
from uld.geometry.coords import Affine
from uld.geometry.frames import Frames, Rows
from uld.geometry.warps import Warp
from uld.models.base import Inputs, Maps, Model

T = TypeVar("T")

Flags = NDArray[np.bool_]
Warps = Callable[[int], Affine]  # the evaluation's: side of the crops in pixels -> (E, 2, 3), crop -> view


@dataclass(frozen=True, eq=False)
class View:
    """An image's crop under an affine warp (2, 3), crop -> view; flipped: it shows the mirror image."""

    affine: Affine
    flipped: bool


class Views(ABC):
    """A few fixed views of images.

    plain: the untouched crop. flips: that and, where there is one, its mirror image. turned: views that turn or scale
    and do not mirror. evaluation: the evaluation's warps, of test images only.
    """

    frames: Frames
    plain: View
    flips: list[View]
    turned: list[View]
    evaluation: list[View]

    @abstractmethod
    def inputs(self, rows: Rows, view: View, names: list[str]) -> Inputs:
        """What a model reads of images in a view; names: the feature maps that it wants."""

    def mirror(self, view: View) -> View:
        """The view that shows what this one does in a mirror.

        Raises:
            ULDError: images are not there in such a view.
        """
        return View(coords.mirrored(view.affine, self.frames.size), not view.flipped)


@dataclass(frozen=True, eq=False)
class Batch:
    """B images, each in a view of its own.

    rows (B,) of boxes.csv; warp: of all B, crop -> view; flipped (B,) bool; inside (B, G, G) bool, cells that show the
    object's box and no padding; inputs: what a model reads of those that this process takes (`ranks.share`), all where
    there is one process.
    """

    rows: Rows
    inputs: Inputs
    warp: Warp
    flipped: Flags
    inside: Tensor

    def through(self, model: Model) -> Maps:
        """What a model says of all B views."""
        maps: Maps = model(self.inputs)
        return maps.each(lambda part: ranks.whole(part, len(self.rows)))


class TrainingViews(Views):
    """The training images `rows` (n,), each in any view."""

    rows: Rows

    @abstractmethod
    def draw(self, rows: Rows, flipped: Flags, rng: np.random.Generator, names: list[str]) -> Batch:
        """Images (B,), each in a random view that is `flipped` (B,) or not."""

    @abstractmethod
    def pairs(self, rows: Rows, same_flip: bool, rng: np.random.Generator, names: list[str]) -> Batch:
        """Two different random views of each of P images: 2P items, first all first ones.

        Args:
            same_flip: both views of a pair are mirrored or neither is.

        Raises:
            ULDError: there are no two such views.
        """

    def partner(self, pairs: Batch) -> Tensor:
        """Which cell (P, G * G) of a pair's second view shows what each cell of its first one shows.

        -1 where that lies outside the view, or where the two cells are not each other's nearest.
        """
        half = len(pairs.rows) // 2
        return warps.partner(pairs.warp.take(slice(half)), pairs.warp.take(slice(half, None)), self.frames.grid)

    def to_cells(self, batch: Batch, xy: NDArray[np.float32]) -> Tensor:
        """Points (B, K, 2) in image pixels -> cells of each item's view, float32; NaN stays NaN."""
        crop = torch.from_numpy(coords.apply(self.frames.affine[batch.rows], xy)).to(batch.inside.device)
        return (((batch.warp.to_view(crop) + 0.5) * (self.frames.grid / self.frames.size)) - 0.5).float()


class Ahead(Generic[T]):
    """Calls `read(number)` for coming numbers in `ULD_WORKERS` threads; the results do not depend on how many."""

    def __init__(self, read: Callable[[int], T], end: int) -> None:
        self._read, self._end = read, end
        self._workers = runtime.workers()
        self._pool = ThreadPoolExecutor(self._workers) if self._workers else None
        self._coming: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        """`read(number)`; the next ones are begun."""
        if self._pool is None:
            return self._read(number)
        for coming in range(number, min(number + self._workers + 1, self._end)):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self._read, coming)
        return self._coming.pop(number).result()
