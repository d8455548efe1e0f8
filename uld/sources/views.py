"""Batches for training out of the view bank of a feature store: each item its own image and its own view."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from uld.base import ranks, runtime
from uld.base.errors import ULDError
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords
from uld.geometry.frames import Frames, Rows

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """B views: rows (B,) of boxes.csv, views (B,) of the bank, inside (B, G, G) the ROI.

    features: {name: (b, C, h, w)} of those that this process takes (`ranks.share`): all, where there is one process.
    """

    rows: Rows
    views: NDArray[np.int64]
    features: Features
    inside: torch.Tensor

    def through(self, model: Callable[[Features], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        """What a model says of all B views."""
        return tuple(ranks.whole(part, len(self.rows)) for part in model(self.features))


class Bank:
    """The view bank of the images `rows`."""

    def __init__(self, store: FeatureStore, frames: Frames, rows: Rows, names: list[str]) -> None:
        """Nothing is read yet.

        Args:
            names: the feature maps that are wanted.
        """
        self.rows, self.grid, self.names = rows, frames.grid, names
        self._store, self._frames = store, frames
        self.mirrored = store.flipped[: store.bank]
        self.hands = [np.flatnonzero(self.mirrored == hand) for hand in (False, True)]
        self._partners: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._masks: dict[tuple[int, int], NDArray[np.uint8]] = {}  # bits: a large crop's mask takes long to read

    @property
    def spec(self) -> dict[str, Any]:
        """What defines the stored features."""
        return self._store.spec

    def read(self, rows: Rows, views: NDArray[np.int64]) -> Batch:
        """The batch of B images, each in its own view."""
        inside = np.stack([self._inside(int(row), int(view)) for row, view in zip(rows, views, strict=True)])
        device, own = runtime.device(), ranks.share(len(rows))
        read = self._store.views_of(rows[own], views[own], self.names)
        features = {name: value.to(device) for name, value in read.items()}
        return Batch(rows, views, features, torch.from_numpy(inside).to(device))

    def _inside(self, row: int, view: int) -> NDArray[np.bool_]:
        """(G, G)."""
        if (row, view) not in self._masks:
            self._masks[row, view] = np.packbits(self._frames.inside(np.array([row]), view))
        bits = np.unpackbits(self._masks[row, view], count=self.grid**2)
        return bits.reshape(self.grid, self.grid).astype(bool)

    def to_cells(self, batch: Batch, xy: NDArray[np.float32]) -> torch.Tensor:
        """Points (B, K, 2) in image pixels -> cells of each item's view."""
        items = zip(batch.rows, batch.views, xy, strict=True)
        found = [self._frames.to_cells(np.array([row]), at[None], int(view)) for row, view, at in items]
        return torch.from_numpy(np.concatenate(found)).to(batch.inside.device)

    def partner(self, a: int, b: int) -> NDArray[np.int64]:
        """(G * G,): which cell of view b shows what the cell of view a shows; -1 outside or if not mutual."""
        if (a, b) not in self._partners:
            there, back = self._nearest(a, b), self._nearest(b, a)
            mutual = back[there] == np.arange(len(there))
            self._partners[a, b] = np.where((there >= 0) & mutual, there, -1)
        return self._partners[a, b]

    def _nearest(self, a: int, b: int) -> NDArray[np.int64]:
        xy = self._frames.between(a, b, coords.cells(self.grid))
        x, y = np.floor(xy + 0.5).astype(np.int64).T
        there = (x >= 0) & (x < self.grid) & (y >= 0) & (y < self.grid)
        return np.where(there, y * self.grid + x, -1)

    def two(self, rng: np.random.Generator, one_hand: bool = True) -> NDArray[np.int64]:
        """Two different views, both mirrored or neither unless `one_hand` is False.

        Raises:
            ULDError: the bank has no two such views.
        """
        groups = [views for views in (self.hands if one_hand else [np.concatenate(self.hands)]) if len(views) > 1]
        if not groups:
            raise ULDError("learning needs two views of one hand: add rotations or scales to networks.*.views.")
        return rng.choice(groups[rng.integers(len(groups))], 2, replace=False)


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
