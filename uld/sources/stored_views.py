"""The views of a feature store: its bank for training, and the evaluation's warps for test images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.models import Origin
from uld.base import ranks, runtime
from uld.base.errors import ULDError
from uld.diffusion import live
from uld.diffusion.online import open_store
from uld.diffusion.store import FeatureStore
from uld.geometry.frames import Frames, Rows
from uld.geometry.warps import Warp
from uld.images.crops import Crops
from uld.models.base import Inputs, Model
from uld.sources.views import Batch, Flags, TrainingViews, View, Warps


class StoredViews(TrainingViews):
    """The images of a feature store in the views that it holds; `rows`: the training images."""

    def __init__(self, store: FeatureStore, frames: Frames, rows: Rows) -> None:
        """Nothing is read yet."""
        self.store, self.frames, self.rows = store, frames, rows
        self._views = [View(*one) for one in zip(store.views, map(bool, store.flipped), strict=True)]
        bank = self._views[: store.bank]
        self.evaluation = [one for one in self._views[store.bank :] if not one.flipped]
        self.plain = bank[0]
        self.flips = [self.plain, *(one for one in bank if np.allclose(one.affine[:, :2], np.diag([-1.0, 1.0])))][:2]
        self.turned = [one for one in bank[1:] if not one.flipped]
        self._of_flip = [np.flatnonzero(store.flipped[: store.bank] == flip) for flip in (False, True)]
        self._masks: dict[tuple[int, int], NDArray[np.uint8]] = {}  # bits: a large crop's mask takes long to read

    def inputs(self, rows: Rows, view: View, names: list[str]) -> Inputs:
        """{name: (B, C, h, w)} of images in a view of the store."""
        return self.store.read(rows, self._views.index(view), names)

    def mirror(self, view: View) -> View:
        """The view that shows what this one does in a mirror.

        Raises:
            ULDError: the store has no such view.
        """
        wanted = super().mirror(view).affine
        found = [one for one in self._views[self.store.bank :] if one.flipped and np.allclose(one.affine, wanted)]
        if not found:
            raise ULDError(
                f"{self.store.path} has no mirror images of test images, which methods with average: true want: set "
                "stores.*.mirrored to true."
            )
        return found[0]

    def draw(self, rows: Rows, flipped: Flags, rng: np.random.Generator, names: list[str]) -> Batch:
        """Images (B,), each in a random view of the bank that is `flipped` (B,) or not."""
        return self._batch(rows, np.array([rng.choice(self._of_flip[int(one)]) for one in flipped]), names)

    def pairs(self, rows: Rows, same_flip: bool, rng: np.random.Generator, names: list[str]) -> Batch:
        """Two different views of the bank for each of P images."""
        views = np.stack([self._two(rng, same_flip) for _ in rows])
        return self._batch(np.tile(rows, 2), views.T.ravel(), names)

    def _batch(self, rows: Rows, views: NDArray[np.int64], names: list[str]) -> Batch:
        """B images, each in its own view of the store."""
        inside = np.stack([self._inside(int(row), int(view)) for row, view in zip(rows, views, strict=True)])
        device, own = runtime.device(), ranks.share(len(rows))
        read = self.store.views_of(rows[own], views[own], names)
        features = {name: value.to(device) for name, value in read.items()}
        warp = Warp.of(self.store.views[views], self.frames.size, device)
        return Batch(rows, features, warp, self.store.flipped[views], torch.from_numpy(inside).to(device))

    def _inside(self, row: int, view: int) -> NDArray[np.bool_]:
        """(G, G)."""
        if (row, view) not in self._masks:
            self._masks[row, view] = np.packbits(self.frames.inside(np.array([row]), self.store.views[view]))
        grid = self.frames.grid
        return np.unpackbits(self._masks[row, view], count=grid**2).reshape(grid, grid).astype(bool)

    def _two(self, rng: np.random.Generator, same_flip: bool) -> NDArray[np.int64]:
        """Two different views of the bank.

        Raises:
            ULDError: the bank has no two such views.
        """
        groups = [
            views for views in (self._of_flip if same_flip else [np.concatenate(self._of_flip)]) if len(views) > 1
        ]
        if not groups:
            raise ULDError("learning needs two views of one flip: add rotations or scales to stores.*.views.")
        return rng.choice(groups[rng.integers(len(groups))], 2, replace=False)


def open_views(
    origin: Origin, crops: Crops, frames: Frames, rows: Rows, warps: Warps | None, root: Path
) -> tuple[StoredViews, str]:
    """The views of the store that a model of `origin` reads, and its checksum; it holds the evaluation's warps.

    Raises:
        ArtifactError: the store is missing, or was made of other crops.
    """
    store = open_store(root / f"{origin.reads}.zarr")
    store.check(crops=crops.fingerprint())
    return StoredViews(store, frames, rows), store.digest


def pack(reads: str, root: Path, folder: Path) -> None:
    """Put what computes a store's features into a bundle."""
    live.pack(FeatureStore(root / f"{reads}.zarr"), folder)


def outside(folder: Path) -> list[str]:
    """The folder or hub id of a network that did not go into the bundle."""
    return live.outside(folder)


def reader(model: Model, folder: Path) -> Callable[[Tensor], Inputs]:
    """Images (B, 3, S, S) -> the features that a model reads, by the files of a bundle.

    Raises:
        BackboneError: a pinned network is gone or has changed.
    """
    return live.features_of(model, folder)
