"""Where training sees raw crops: each view a warp and a change of light of its own, drawn anew at every step.

All numbers come from the generator of a call, so that a step depends on nothing but its number. Warps, light and masks
are computed for a whole batch at once, on the device.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.models import Origin
from uld.base import ranks, runtime
from uld.base.params import build
from uld.geometry import coords, sampling, warps
from uld.geometry.coords import Affine
from uld.geometry.frames import Frames
from uld.geometry.warps import Warp
from uld.images.augment import draw, photometric
from uld.images.crops import Crops, as_images
from uld.models.base import Inputs, Model
from uld.sources.augmentation import PixelViewParams, WarpParams
from uld.sources.views import Batch, Flags, TrainingViews, View, Warps

HELD = 2 * 2**30  # bytes of crops and masks that are kept in memory
READ = 256  # crops that are read at a time

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]


class PixelViews(TrainingViews):
    """The crops of a data set; `rows` (n,): the training images, each seen under a warp of its own at every step."""

    def __init__(
        self,
        pixels: Callable[[Rows], Pixels],
        inside: Callable[[Rows], Masks],
        frames: Frames,
        rows: Rows,
        params: PixelViewParams,
        evaluation: Affine,
        *,
        held: int = HELD,
    ) -> None:
        """Read the crops of the training images, if they fit.

        Args:
            pixels: rows (B,) -> crops (B, S, S, 3) uint8 of any image.
            inside: rows (B,) -> (B, S, S) bool, False where the crop leaves the photograph.
            evaluation: (E, 2, 3), the evaluation's warps, crop -> view.
            held: bytes of crops and masks that are kept in memory; if they are more, each step reads its own.
        """
        self.frames, self.rows = frames, rows
        self._params, self._device = params, runtime.device()
        self._any, size = pixels, frames.size
        fits = _bytes(len(rows), size) <= held
        self._pixels, self._inside = (_held(read, rows) if fits else read for read in (pixels, inside))
        self.plain = View(coords.view(size), flipped=False)
        mirrored = View(coords.view(size, mirror=True), flipped=True)
        self.flips = [self.plain, mirrored] if params.warp.mirror else [self.plain]
        self.turned = [View(one, flipped=False) for one in _turned(size, params.warp)]
        self.evaluation = [View(one, flipped=False) for one in evaluation]

    def inputs(self, rows: Rows, view: View, names: list[str]) -> Inputs:
        """Images (B, 3, S, S) in [0, 1] of any rows in a fixed view."""
        return sampling.warp(as_images(self._any(rows), self._device), view.affine)

    def draw(self, rows: Rows, flipped: Flags, rng: np.random.Generator, names: list[str]) -> Batch:
        """A random view of each of `rows` (B,), mirrored or not as `flipped` (B,) says."""
        warp = self._warps(flipped, rng)
        light = draw(self._params.light, len(rows), self.frames.size, rng)
        own = ranks.share(len(rows))
        views = warp.take(own).resample(self._images(rows[own]))
        return Batch(rows, photometric(views, light.take(own)), warp, flipped, self._seen(rows, warp))

    def pairs(self, rows: Rows, same_flip: bool, rng: np.random.Generator, names: list[str]) -> Batch:
        """Two random views of each of `rows` (P,); mirrored or not is as likely, where mirror images are seen."""
        count = len(rows)
        flipped = (rng.random(count if same_flip else 2 * count) < 0.5) & self._params.warp.mirror
        return self.draw(np.tile(rows, 2), np.tile(flipped, 2) if same_flip else flipped, rng, names)

    def _warps(self, flipped: NDArray[np.bool_], rng: np.random.Generator) -> Warp:
        p, count = self._params.warp, len(flipped)
        turn, scale = p.rotate * rng.uniform(-1, 1, count), 1 + p.scale * rng.uniform(-1, 1, count)
        shift = p.shift * self.frames.size * rng.uniform(-1, 1, (count, 2))
        affine = torch.from_numpy(warps.affines(self.frames.size, flipped, turn, scale, shift)).to(self._device)
        bend = self._bend(count, rng) if p.bend.displacement else None
        return Warp(affine, self.frames.size, bend)

    def _bend(self, count: int, rng: np.random.Generator) -> Tensor:
        p = self._params.warp.bend
        moved = p.displacement * self.frames.size * rng.uniform(-1, 1, (count, p.grid**2, 2))
        return warps.unfolded(torch.from_numpy(moved).to(self._device), self.frames.size)

    def _images(self, rows: Rows) -> Tensor:
        """(B, 3, S, S) float in [0, 1]; an image that is asked for twice is read once."""
        read, place = np.unique(rows, return_inverse=True)
        crops = torch.from_numpy(self._pixels(read)).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return crops[torch.from_numpy(place).to(self._device)]

    def _seen(self, rows: Rows, warp: Warp) -> Tensor:
        """(B, G, G): as `Frames.inside`; float32, as files hold points, decides ties there and here."""
        at = warp.cells_in_crop(self.frames.grid).float()
        photo = self._in_photograph(rows, at.round().long())
        back = warps.inverse(torch.from_numpy(self.frames.affine[rows]).to(self._device))
        xy = (at.double() @ back[:, :, :2].mT + back[:, None, :, 2]).float()
        low, high = torch.from_numpy(self.frames.boxes[rows]).to(self._device)[:, None].split(2, 2)
        return (photo & ((xy >= low) & (xy <= high)).all(2)).unflatten(1, (self.frames.grid, self.frames.grid))

    def _in_photograph(self, rows: Rows, at: Tensor) -> Tensor:
        """(B, P): whether pixels (B, P, 2) of the crops are in the crop and show the photograph."""
        masks = torch.from_numpy(self._inside(rows)).to(self._device).flatten(1)
        x, y = at.clamp(0, self.frames.size - 1).unbind(2)
        return masks.gather(1, y * self.frames.size + x) & ((at >= 0) & (at < self.frames.size)).all(2)


def kept_bytes(rows: int, size: int) -> int:
    """Bytes of crops and masks that are kept in memory, at most: of so many training images, S pixels a side."""
    return min(_bytes(rows, size), HELD)


def _bytes(rows: int, size: int) -> int:
    return 4 * rows * size**2  # three of colour and one of the mask a pixel


def _held(read: Callable[[Rows], NDArray], rows: Rows) -> Callable[[Rows], NDArray]:
    """`read` out of memory for any of `rows`."""
    known = np.unique(rows)
    parts = [read(known[start : start + READ]) for start in range(0, len(known), READ)]
    kept = np.concatenate(parts) if parts else read(known)
    return lambda wanted: kept[np.searchsorted(known, wanted)]


def _turned(size: int, params: WarpParams) -> list[Affine]:
    """Views by which methods see whether a landmark stays put: half of the largest turn and scale, either way."""
    turns = [coords.view(size, rotate=angle / 2) for angle in (params.rotate, -params.rotate) if angle]
    return turns + [coords.view(size, scale=1 + share / 2) for share in (params.scale, -params.scale) if share]


def open_views(
    origin: Origin, crops: Crops, frames: Frames, rows: Rows, warps: Warps | None, root: Path
) -> tuple[PixelViews, str]:
    """The views of crops.zarr that a model of `origin` sees, and their fingerprint."""
    params = build(PixelViewParams, origin.views, "views")
    evaluation = np.empty((0, 2, 3)) if warps is None else warps(crops.size)
    return PixelViews(crops.images, crops.inside, frames, rows, params, evaluation), crops.fingerprint()


def pack(reads: str, root: Path, folder: Path) -> None:
    """A bundle of a model that reads images needs nothing but the model."""


def outside(folder: Path) -> list[str]:
    """Nor does it open anything outside itself."""
    return []


def reader(model: Model, folder: Path) -> Callable[[Tensor], Inputs]:
    """Images (B, 3, S, S) as they are."""
    return lambda images: images
