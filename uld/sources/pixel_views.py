"""Where training sees raw crops: each view a warp and a change of light of its own, drawn anew at every step.

All numbers come from the generator of a call, so that a step depends on nothing but its number. Warps, light and masks
are computed for a whole batch at once, on the device.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import warps
from uld.geometry.coords import Affine
from uld.geometry.warps import Warp
from uld.images.augment import PhotometricParams, draw, photometric
from uld.sources.batch import Batch

HELD = 2 * 2**30  # bytes of crops and masks that are kept in memory
READ = 256  # crops that are read at a time

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Masks = NDArray[np.bool_]


@closed(frozen=True, config=CLOSED)
class BendParams:
    """A thin-plate spline through n x n control points, each moved at random."""

    displacement: Annotated[float, Field(ge=0, le=0.5)]  # share of the view's side at most, along x and y; 0: off
    grid: Annotated[int, Field(ge=2, le=16)]  # n


@closed(frozen=True, config=CLOSED)
class WarpParams:
    """How far views differ from the crop; 0 switches a change off."""

    rotate: Annotated[float, Field(ge=0, le=180)]  # degrees at most, either way
    scale: Annotated[float, Field(ge=0, lt=1)]  # of the factor, from 1 - scale to 1 + scale
    shift: Annotated[float, Field(ge=0, le=1)]  # share of the view's side at most, along x and y
    bend: BendParams


class PixelViews:
    """Views of the crops of the images `rows`."""

    def __init__(
        self,
        pixels: Callable[[Rows], Pixels],
        inside: Callable[[Rows], Masks],
        affine: Affine,
        boxes: NDArray[np.float64],
        rows: Rows,
        size: int,
        grid: int,
        warp: WarpParams,
        light: PhotometricParams,
        device: torch.device,
        share: Callable[[int], Rows] = np.arange,
        held: int = HELD,
    ) -> None:
        """Read all crops, if they fit.

        Args:
            pixels: rows (B,) -> crops (B, S, S, 3) uint8.
            inside: rows (B,) -> (B, S, S) bool, False where the crop leaves the photograph.
            affine: (N, 2, 3), image -> crop. boxes: (N, 4) object boxes, x1, y1, x2, y2 in image pixels.
            rows: (n,) the images that are seen. size: S. grid: G.
            share: how many views -> the indices of those that this process takes (`ranks.share`).
            held: bytes of crops and masks that are kept in memory; if they are more, each step reads its own.
        """
        self.rows, self.size, self.grid = rows, size, grid
        self._affine, self._boxes, self._device, self._share = affine, boxes, device, share
        self._warp, self._light = warp, light
        fits = 4 * len(rows) * size**2 <= held  # three bytes of colour and one of the mask a pixel
        self._pixels, self._inside = (_held(read, rows) if fits else read for read in (pixels, inside))

    def draw(self, rows: Rows, flipped: NDArray[np.bool_], rng: np.random.Generator) -> Batch:
        """A random view of each of `rows` (B,), mirrored or not as `flipped` (B,) says."""
        warp = self._warps(flipped, rng)
        light = draw(self._light, len(rows), self.size, rng)
        own = self._share(len(rows))
        views = warp.take(own).resample(self._images(rows[own]))
        return Batch(rows, photometric(views, light.take(own)), warp, flipped, self._seen(rows, warp))

    def pairs(self, rows: Rows, rng: np.random.Generator, same_flip: bool) -> Batch:
        """Two random views of each of `rows` (P,): 2P views, first all first ones.

        Args:
            same_flip: whether both views of a pair are mirrored or neither; each way is as likely.
        """
        count = len(rows)
        flipped = rng.random(count if same_flip else 2 * count) < 0.5
        return self.draw(np.tile(rows, 2), np.tile(flipped, 2) if same_flip else flipped, rng)

    def to_cells(self, batch: Batch, xy: NDArray[np.float32]) -> Tensor:
        """Points (B, K, 2) in image pixels -> cells of each item's view, float32; NaN stays NaN."""
        affine = Warp.of(self._affine[batch.rows], self.size, self._device)
        at = batch.warp.to_view(affine.to_view(torch.from_numpy(xy).to(self._device)))
        return ((at + 0.5) * (self.grid / self.size) - 0.5).float()

    def partner(self, batch: Batch) -> Tensor:
        """Which cell of a pair's second view shows what the cell of its first shows, for a batch of `pairs`.

        Returns:
            (P, G * G) int64; -1 outside the view, or if the nearest cells are not each other's.
        """
        half = len(batch.rows) // 2
        return warps.partner(batch.warp.take(slice(half)), batch.warp.take(slice(half, None)), self.grid)

    def _warps(self, flipped: NDArray[np.bool_], rng: np.random.Generator) -> Warp:
        p, count = self._warp, len(flipped)
        turn, scale = p.rotate * rng.uniform(-1, 1, count), 1 + p.scale * rng.uniform(-1, 1, count)
        shift = p.shift * self.size * rng.uniform(-1, 1, (count, 2))
        affine = torch.from_numpy(warps.affines(self.size, flipped, turn, scale, shift)).to(self._device)
        bend = self._bend(count, rng) if p.bend.displacement else None
        return Warp(affine, self.size, bend)

    def _bend(self, count: int, rng: np.random.Generator) -> Tensor:
        p = self._warp.bend
        moved = p.displacement * self.size * rng.uniform(-1, 1, (count, p.grid**2, 2))
        return warps.unfolded(torch.from_numpy(moved).to(self._device), self.size)

    def _images(self, rows: Rows) -> Tensor:
        """(B, 3, S, S) float in [0, 1]; an image that is asked for twice is read once."""
        read, place = np.unique(rows, return_inverse=True)
        crops = torch.from_numpy(self._pixels(read)).to(self._device).permute(0, 3, 1, 2).float().div_(255)
        return crops[torch.from_numpy(place).to(self._device)]

    def _seen(self, rows: Rows, warp: Warp) -> Tensor:
        """(B, G, G): as `Frames.inside`; float32, as files hold points, decides ties there and here."""
        at = warp.cells_in_crop(self.grid).float()
        photo = self._in_photograph(rows, at.round().long())
        back = warps.inverse(torch.from_numpy(self._affine[rows]).to(self._device))
        xy = (at.double() @ back[:, :, :2].mT + back[:, None, :, 2]).float()
        low, high = torch.from_numpy(self._boxes[rows]).to(self._device)[:, None].split(2, 2)
        return (photo & ((xy >= low) & (xy <= high)).all(2)).unflatten(1, (self.grid, self.grid))

    def _in_photograph(self, rows: Rows, at: Tensor) -> Tensor:
        """(B, P): whether pixels (B, P, 2) of the crops are in the crop and show the photograph."""
        masks = torch.from_numpy(self._inside(rows)).to(self._device).flatten(1)
        x, y = at.clamp(0, self.size - 1).unbind(2)
        return masks.gather(1, y * self.size + x) & ((at >= 0) & (at < self.size)).all(2)


def _held(read: Callable[[Rows], NDArray], rows: Rows) -> Callable[[Rows], NDArray]:
    """`read` out of memory for any of `rows`."""
    known = np.unique(rows)
    parts = [read(known[start : start + READ]) for start in range(0, len(known), READ)]
    kept = np.concatenate(parts) if parts else read(known)
    return lambda wanted: kept[np.searchsorted(known, wanted)]
