"""Photographs of smooth texture with a few dots, their crops, and a feature store of random filters on every view."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from uld.diffusion import building, store
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords, sampling
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops, as_images
from uld.images.cut import write as write_crops
from uld.sources.stored_views import StoredViews

WIDTH, HEIGHT, SIZE = 48, 40, 32
SHAPES = {"l00_t5": (8, 8, 8), "l10_t5": (6, 16, 16)}
# mirror, rotate, scale
VIEWS = ((False, 0, 1), (True, 0, 1), (False, 20, 1), (False, 0, 1.2), (True, -20, 1), (True, 90, 0.9))
WARPS = ((False, 10, 1), (False, 0, 0.9))  # in which test images are stored


@dataclass(frozen=True)
class Texture:
    """N images, of which the last two are of the test split."""

    store: FeatureStore
    crops: Crops
    boxes: pd.DataFrame
    dots: np.ndarray  # (N, 3, 2) image pixels

    @property
    def rows(self) -> np.ndarray:
        """The training images."""
        return np.flatnonzero(self.boxes["split"] == "train")

    def frames(self, grid: int) -> Frames:
        return Frames(self.crops.affine, corners(self.boxes), self.crops.inside, SIZE, grid)

    def views(self, grid: int) -> StoredViews:
        """The training images in the views of the store."""
        return StoredViews(self.store, self.frames(grid), self.rows)

    def view(self, row: int, view: int) -> torch.Tensor:
        """What a view shows: (3, S, S) in [0, 1]."""
        return _view(self.crops, np.array([row]), self.store.views[view])[0]


def make(
    folder: Path, views: tuple[tuple[bool, float, float], ...] = VIEWS, contrast: float = 0.6, spread: bool = False
) -> Texture:
    """Photographs and their features; `spread`: of channels of log-normal spread."""
    images = 8
    rng = np.random.default_rng(7)
    boxes = pd.DataFrame({"image": [f"{n}.png" for n in range(images)], "split": ["train"] * 6 + ["test"] * 2})
    boxes[["x1", "y1", "x2", "y2"]] = [3.5, 2.5, 43.5, 36.5]
    dots = rng.uniform((14, 10), (33, 29), (images, 3, 2)).astype(np.float32)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for name, at in zip(boxes["image"], dots, strict=True):
        small = 128 + contrast * rng.uniform(-128, 127, (7, 8, 3))
        photo = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for dot in at:
            gap = (x - dot[0]) ** 2 + (y - dot[1]) ** 2
            photo += (255 - photo) * np.exp(-gap / 4)[..., None]
        cv2.imwrite(str(folder / name), photo.clip(0, 255).astype(np.uint8))
    write_crops(folder / "crops.zarr", folder, boxes, 0.0, SIZE)
    cut = Crops(folder / "crops.zarr")
    bank, warps = (np.stack([coords.view(SIZE, *view) for view in some]) for some in (views, WARPS))
    train = boxes["split"].to_numpy() == "train"
    layout = store.lay_out(bank, np.array([view[0] for view in views]), warps, train)

    def compute(first: int, end: int) -> Iterator[Features]:
        for row, view in layout.items[first:end]:
            features = _features(_view(cut, np.array([row]), layout.views[view]))
            yield {name: value * _spread(value) for name, value in features.items()} if spread else features

    spec = {"rows": images, "crops": cut.fingerprint(), "backbone": "texture", "bank": [list(view) for view in views]}
    path = folder / "trained.zarr"
    for name in ("scratch", "backbone"):
        (folder / name).mkdir()
    building.build(path, folder / "scratch", spec, layout, folder / "backbone", compute, SHAPES)
    return Texture(FeatureStore(path), cut, boxes, dots)


def _view(cut: Crops, rows: np.ndarray, affine: np.ndarray) -> torch.Tensor:
    return sampling.warp(as_images(cut.images(rows), torch.device("cpu")), affine)


def _spread(value: torch.Tensor) -> torch.Tensor:
    """A factor (C, 1, 1) for each channel."""
    return torch.randn(value.shape[1], 1, 1, generator=torch.Generator().manual_seed(3)).exp()


def _features(images: torch.Tensor) -> Features:
    """Random filters, averaged over cells."""
    rng = torch.Generator().manual_seed(2)
    out = {}
    for name, (channels, side, _) in SHAPES.items():
        filters = torch.randn(channels, 3, 5, 5, generator=rng)
        out[name] = F.adaptive_avg_pool2d(F.conv2d(F.pad(images, (2,) * 4, "reflect"), filters).tanh(), side)
    return out
