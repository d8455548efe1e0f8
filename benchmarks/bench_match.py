"""Exemplars, dense assignment and peaks on whole batches against a Python loop over images with the same results."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same

from uld.base import random
from uld.geometry import peaks
from uld.landmarks import match

Ints = NDArray[np.int64]


def main(small: bool) -> None:
    repeats = 1 if small else 5
    exemplars(20 if small else 5000, 30 if small else 300, 10, repeats)
    dense(4 if small else 256, 64, 8 if small else 32, 10, repeats)
    maxima(4 if small else 256, 16 if small else 64, repeats)


def exemplars(images: int, points: int, k: int, repeats: int) -> None:
    rng = random.rng(0, "bench-exemplars")
    image = np.repeat(np.arange(images), points)
    label = rng.integers(k, size=len(image))
    distance = rng.random(len(image), dtype=np.float32)

    def loop() -> Ints:
        kept = []
        for number in range(images):
            rows = np.arange(number * points, (number + 1) * points)
            for cluster in range(k):
                own = rows[label[rows] == cluster]
                if len(own):
                    kept.append(own[distance[own].argmin()])
        return np.array(kept)

    ways: Ways = {"uld": lambda: match.exemplars(image, label, distance), "loop over images": loop}
    seconds, found = measure(ways, repeats)
    same("exemplars", *found.values())
    report(f"exemplars, {images} images x {points} points, K={k}", seconds, images, "images", "loop over images")


def dense(images: int, size: int, grid: int, k: int, repeats: int) -> None:
    rng = torch.Generator().manual_seed(0)
    maps = F.normalize(torch.randn(images, size, grid, grid, generator=rng), dim=1)
    inside = torch.rand(images, grid, grid, generator=rng) < 0.8
    centroids = F.normalize(torch.randn(k, size, generator=rng), dim=1).numpy()
    xy, score = np.empty((2, images, k, 2), np.float32), np.empty((2, images, k), np.float32)

    def loop() -> None:
        xy.fill(np.nan)
        score.fill(np.nan)
        for number in range(images):
            cells = np.flatnonzero(inside[number].numpy())
            descriptors = maps[number].flatten(1).numpy()[:, cells]
            cosine = centroids @ descriptors
            label = ((descriptors[None] - centroids[..., None]) ** 2).sum(1).argmin(0)
            for cluster in range(k):
                for kind, own in enumerate((np.flatnonzero(label == cluster), np.arange(len(cells)))):
                    if len(own):
                        best = own[cosine[cluster, own].argmax()]
                        xy[kind, number, cluster] = cells[best] % grid, cells[best] // grid
                        score[kind, number, cluster] = cosine[cluster, best]

    ways: Ways = {
        "uld": lambda: match.dense(maps, inside, centroids, refine=False, anywhere=True),
        "loop over images": loop,
    }
    seconds, found = measure(ways, repeats)
    landmarks = found["uld"]
    same("dense xy", np.stack([landmarks.xy, landmarks.dense_xy]), xy)
    same("dense score", np.stack([landmarks.score, landmarks.dense_score]), score, atol=1e-5)
    report(f"dense, {images} images, D={size}, G={grid}, K={k}", seconds, images, "images", "loop over images")


def maxima(images: int, grid: int, repeats: int) -> None:
    rng = torch.Generator().manual_seed(0)
    heat = torch.rand(images, grid, grid, generator=rng)
    inside = torch.rand(images, grid, grid, generator=rng) < 0.8
    radius, threshold, cap = 2, 0.9, 50

    def loop() -> NDArray[np.float32]:
        lines = []
        for number, (one, roi) in enumerate(zip(heat.numpy(), inside.numpy(), strict=True)):
            masked = np.where(roi, one, -np.inf)
            found = []
            for y, x in np.argwhere(masked >= threshold):
                window = masked[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
                if masked[y, x] == window.max():
                    found.append((number, x, y, one[y, x]))
            lines += sorted(found, key=lambda line: -line[3])[:cap]
        return np.array(lines, dtype=np.float32)

    ways: Ways = {"uld": lambda: peaks.peaks(heat, inside, radius, threshold, cap), "loop over images": loop}
    seconds, found = measure(ways, repeats)
    ours = found["uld"]
    columns = np.column_stack([ours.image, ours.xy, ours.score])
    same("peaks", columns, found["loop over images"])
    report(f"peaks, {images} images, G={grid}", seconds, images, "images", "loop over images")


if __name__ == "__main__":
    run(main)
