"""Views of raw crops for training: a batch at a time on the device, against one image at a time with OpenCV and numpy;
and the share of a training step of a small encoder that they take.
"""

import contextlib
import io
import os
import tempfile
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same

from uld.base import params, random, runtime
from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.images.augment import GREY, Draws, draw
from uld.images.crops import Crops
from uld.images.light import BlurParams, CutoutParams, PhotometricParams
from uld.models.encoder import Encoder
from uld.sources.augmentation import BendParams, PixelViewParams, WarpParams
from uld.sources.pixel_views import PixelViews
from uld.sources.views import Batch
from uld.starts.base import Site
from uld.starts.encoder import EncoderStartParams
from uld.training.bootstrap import bootstrap

STUDY = Path(__file__).parents[1] / "studies/ablation/params.yaml"  # its start `pixels` is what is trained
TARGET = 15  # percent of a training step at most that may go into views
GRID, MARGIN = 32, 0.2
WARP = WarpParams(mirror=True, rotate=30, scale=0.2, shift=0.1, bend=BendParams(displacement=0.04, grid=5))
LIGHT = PhotometricParams(
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    gamma=0.3,
    blur=BlurParams(sigma=1.5, probability=0.5),
    noise=0.05,
    cutout=CutoutParams(side=0.3, probability=0.3),
)

Array = NDArray[np.float32]


class Plain:
    """One image at a time: the spline is solved and evaluated, the crop remapped, its light changed, its mask made."""

    def __init__(self, pixels: NDArray[np.uint8], affine: coords.Affine, boxes: NDArray[np.float64], size: int) -> None:
        self.pixels, self.affine, self.boxes, self.size = pixels, affine, boxes, size

    def __call__(self, batch: Batch, drawn: Draws) -> tuple[Array, NDArray[np.bool_]]:
        """Views (B, 3, S, S) and masks (B, G, G) of what was drawn for a batch."""
        views, masks = [], []
        assert batch.warp.bend is not None
        for item, row in enumerate(batch.rows):
            affine, bend = batch.warp.affine[item].cpu().numpy(), batch.warp.bend[item].cpu().numpy()
            show = Shown(affine, bend, self.size)
            at = show(self._grid(self.size)).astype(np.float32).reshape(self.size, self.size, 2)
            view = cv2.remap(self.pixels[row], at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            views.append(lit(view, drawn, item).transpose(2, 0, 1))
            masks.append(self._inside(int(row), show))
        return np.stack(views), np.stack(masks)

    def _inside(self, row: int, show: "Shown") -> NDArray[np.bool_]:
        crop = show(self._grid(GRID))
        seen = ((np.rint(crop) >= 0) & (np.rint(crop) < self.size)).all(1)
        at = coords.apply(coords.invert(self.affine[row]), crop)
        box = (at >= self.boxes[row, :2]) & (at <= self.boxes[row, 2:])
        return np.asarray(seen & box.all(1)).reshape(GRID, GRID)

    def _grid(self, count: int) -> NDArray[np.float64]:
        return (coords.cells(count).astype(np.float64) + 0.5) * (self.size / count) - 0.5


class Shown:
    """What a view shows where: an affine (2, 3) and the values (n * n, 2) of a thin-plate spline in it."""

    def __init__(self, affine: coords.Affine, bend: NDArray[np.float64], size: int) -> None:
        line = np.linspace(-0.5, size - 0.5, round(len(bend) ** 0.5))
        self.back, self.at = coords.invert(affine), np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
        linear = np.c_[np.ones(len(bend)), self.at]
        system = np.block([[kernel(self.at, self.at), linear], [linear.T, np.zeros((3, 3))]])
        self.weights = np.linalg.solve(system, np.r_[bend, np.zeros((3, 2))])

    def __call__(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (P, 2) of the view -> of the crop."""
        moved = xy + np.c_[kernel(xy, self.at), np.ones(len(xy)), xy] @ self.weights
        return np.asarray(moved @ self.back[:, :2].T + self.back[:, 2])


def kernel(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = ((one[:, None] - other) ** 2).sum(2)
    return np.asarray(squares * np.log(np.maximum(squares, 1e-30)) / 2)


def lit(view: NDArray[Any], drawn: Draws, item: int) -> Array:
    """One view (S, S, 3) in the light that was drawn for it."""
    brightness, contrast, saturation, hue, gamma, sigma, noise, covered = (
        value[item]
        for value in vars(drawn).values()
        if isinstance(value, np.ndarray)  # all but the radius
    )
    image = np.clip(view.astype(np.float32) / 255 * brightness, 0, 1)
    mean = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()
    image = np.clip(mean + contrast * (image - mean), 0, 1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    image = np.clip(grey + saturation * (image - grey), 0, 1)
    cone = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # hue in degrees
    cone[..., 0] = (cone[..., 0] + np.rad2deg(hue)) % 360
    image = np.clip(cv2.cvtColor(cone, cv2.COLOR_HSV2RGB), 0, 1) ** gamma
    if sigma:
        side = 2 * drawn.radius + 1
        image = cv2.GaussianBlur(image, (side, side), float(sigma), borderType=cv2.BORDER_REFLECT_101)
    image = np.clip(image + noise.transpose(1, 2, 0), 0, 1)
    image[covered] = GREY
    return np.asarray(image, np.float32)


def smooth(count: int, size: int) -> NDArray[np.uint8]:
    """Random pictures (N, S, S, 3) without sharp edges, where bilinear sampling in fixed point is exact enough."""
    rng = random.rng(0, "bench-pictures")
    small = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.uint8) for one in small])


class Prepared(PixelViews):
    """Always the first pairs that were drawn: with them a training step costs what it costs without views."""

    first: tuple[Batch, torch.Tensor] | None = None

    def pairs(self, rows: NDArray[np.int64], same_flip: bool, rng: np.random.Generator, names: list[str]) -> Batch:
        """The first ones."""
        if self.first is None:
            batch = super().pairs(rows, same_flip, rng, names)
            self.first = batch, super().partner(batch)
        return self.first[0]

    def partner(self, pairs: Batch) -> torch.Tensor:
        """Theirs."""
        assert self.first is not None
        return self.first[1]


class Setting:
    """Images of one size, the fast way to their views and the plain one."""

    def __init__(self, images: int, size: int, seen: PixelViewParams) -> None:
        self.images, self.size, self.seen, pixels = images, size, seen, smooth(images, size)
        boxes = np.tile([0.0, 0.0, size, size], (images, 1))
        affine = coords.crop(boxes, MARGIN, size)
        frames = Frames(affine, boxes, lambda rows: np.ones((len(rows), size, size), bool), size, GRID)
        self.views, self.prepared = (
            kind(
                lambda rows: pixels[rows],
                lambda rows: np.ones((len(rows), size, size), bool),
                frames,
                np.arange(images),
                seen,
                np.empty((0, 2, 3)),
            )
            for kind in (PixelViews, Prepared)
        )
        self.plain = Plain(pixels, affine, boxes, size)

    def fast(self, pairs: int) -> Batch:
        """All views at once."""
        rng = random.rng(0, "bench-views")
        return self.views.pairs(rng.integers(0, self.images, pairs), True, rng, [])

    def slow(self, pairs: int) -> tuple[Array, NDArray[np.bool_]]:
        """The same numbers are drawn, and what they mean is computed image by image."""
        rng = random.rng(0, "bench-views")
        rows = rng.integers(0, self.images, pairs)
        flipped = np.tile(rng.random(pairs) < 0.5, 2)
        warp = self.views._warps(flipped, rng)
        drawn = draw(self.seen.light, 2 * pairs, self.size, rng)
        batch = Batch(np.tile(rows, 2), torch.empty(0), warp, flipped, torch.empty(0))
        return self.plain(batch, drawn)


class Start:
    """The start `pixels` of the study, with random weights, and how long training it takes."""

    def __init__(self, steps: int, pairs: int | None = None) -> None:
        """With the study's pairs a step, or so many."""
        self.params = params.read(EncoderStartParams, "starts.pixels", STUDY)
        self.size = params.read(int, "roi.crop", STUDY)
        self.train = replace(self.params.train, pairs=pairs or self.params.train.pairs, steps=steps)
        torch.manual_seed(0)
        sizes = asdict(self.params.network) | {"widths": list(self.params.network.widths)}
        self.model = Encoder(self.size, **sizes).to(runtime.device())

    def trained(self, views: PixelViews, workers: int) -> None:
        """The steps of `bootstrap`, whose pairs so many threads draw ahead."""
        quiet = contextlib.redirect_stdout(io.StringIO())
        with tempfile.TemporaryDirectory() as folder, quiet, mock.patch.dict(os.environ, ULD_WORKERS=str(workers)):
            crops = cast(Crops, None)  # only another teacher than SiLK looks at them
            bootstrap(deepcopy(self.model), Site(views, crops, 0, Path(folder) / "state", "pixels"), self.train)


def share(images: int, steps: int, repeats: int, pairs: int | None = None) -> None:
    """Print how much of a training step of the start the views and their partners are."""
    start = Start(steps, pairs)
    setting, pairs = Setting(images, start.size, start.params.views), start.train.pairs
    drawing(setting, pairs, repeats)
    ways: Ways = {
        "views prepared": lambda: start.trained(setting.prepared, workers=0),
        "views in turn": lambda: start.trained(setting.views, workers=0),
        "views ahead": lambda: start.trained(setting.views, workers=1),
    }
    seconds, _ = measure(ways, repeats)
    topic = f"training step at {start.size} px, {pairs} pairs, {runtime.threads()} threads"
    report(topic, seconds, steps, "steps", "views prepared")
    for way in ("views in turn", "views ahead"):
        percent = 100 * (1 - seconds["views prepared"] / seconds[way])
        print(f"{topic}: {way} are {percent:.1f} % of it; target {TARGET} % {'met' if percent <= TARGET else 'missed'}")


def drawing(setting: Setting, pairs: int, repeats: int) -> None:
    """Print how long the views and the partners of all their cells take."""
    batch = setting.fast(pairs)
    parts: Ways = {"views": lambda: setting.fast(pairs), "partners": lambda: setting.views.partner(batch)}
    seconds, _ = measure(parts, repeats)
    print(", ".join(f"{part} of {pairs} pairs: {value:.4g} s" for part, value in seconds.items()))


def main(small: bool) -> None:
    pairs, images, repeats = (2, 3, 1) if small else (12, 200, 15)
    for size in (32,) if small else (64, 128):
        setting = Setting(images, size, PixelViewParams(WARP, LIGHT))
        ways: Ways = {
            "uld": lambda setting=setting: setting.fast(pairs),
            "an image at a time": lambda setting=setting: setting.slow(pairs),
        }
        seconds, results = measure(ways, repeats)
        views, masks = results["an image at a time"]
        # OpenCV resamples 8 bits in fixed point, and a hue turns that error into another colour
        same("views", results["uld"].inputs.cpu(), views, atol=0.05)
        same("masks", results["uld"].inside.cpu(), masks)
        report(f"views at {size} px", seconds, 2 * pairs, "views", "an image at a time")
    share(images, *((1, 1, 2) if small else (6, 9)))


if __name__ == "__main__":
    run(main)
