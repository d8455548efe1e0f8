"""Rendered heat maps of a whole batch against a Python loop over images and points with the same results."""

import numpy as np
import torch
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same

from uld.base import random, runtime
from uld.geometry.heatmaps import render

POINTS, SIGMA = 10, 1.0


def loop(xy: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """One Gaussian after the other, each over all cells."""
    out = np.zeros((len(xy), grid, grid), np.float32)
    y, x = np.mgrid[:grid, :grid].astype(np.float32)
    for heat, points in zip(out, xy, strict=True):
        for point in points:
            if not np.isnan(point).any():
                height = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * SIGMA**2))
                np.maximum(heat, height, out=heat)
    return out


def main(small: bool) -> None:
    images, repeats = (3, 1) if small else (24, 51)
    for grid in (32, 64):
        xy = random.rng(0, "bench-heatmaps").uniform(0, grid - 1, (images, POINTS, 2)).astype(np.float32)
        xy[::3, 0] = np.nan
        points = torch.from_numpy(xy).to(runtime.device())
        ways: Ways = {
            "uld": lambda x=points, g=grid: render(x, g, SIGMA),
            "loop over points": lambda x=xy, g=grid: loop(x, g),
        }
        seconds, found = measure(ways, repeats)
        same("heat maps", found["uld"].cpu(), found["loop over points"], atol=1e-5)
        report(f"heat maps, {images} images x {POINTS} points, G={grid}", seconds, images, "images", "loop over points")


if __name__ == "__main__":
    run(main)
