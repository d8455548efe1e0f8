"""A cluster stage on the detections of 200,000 images, kept on disk, against all in memory: time and peak memory."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from timing import report, run, same

from uld.base import random, runtime
from uld.cluster import kmeans, search
from uld.cluster.spool import Spool
from uld.landmarks import label, match
from uld.landmarks.detect import Points
from uld.landmarks.label import Pool

K, ITERATIONS = 10, 20
IMAGES = 1_000  # made at a time
Labelled = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]  # image, position and cluster


def points(images: int, each: int, size: int) -> Iterator[Points]:
    """Points of unit length around more directions than clusters, some images at a time: never all of them."""
    rng = random.rng(0, "bench-cluster")
    home = start(size, 3 * K)
    for first in range(0, images, IMAGES):
        image = np.repeat(np.arange(first, min(first + IMAGES, images)), each)
        x = home[rng.integers(len(home), size=len(image))]
        x += 0.5 * rng.standard_normal(x.shape, dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        yield Points(image, rng.uniform(0, 63, (len(x), 2)).astype(np.float32), np.ones(len(x), np.float32), x)


def start(size: int, count: int) -> NDArray[np.float32]:
    """Directions (count, D)."""
    return random.rng(0, "bench-home").standard_normal((count, size), dtype=np.float32)


def ours(images: int, each: int, size: int, cap: int) -> Labelled:
    """As methods do it."""
    parts, descriptors = [], Spool()
    for batch in points(images, each, size):
        parts.append((batch.image, batch.xy))
        descriptors.append(batch.descriptor)
    image, xy = (np.concatenate(column) for column in zip(*parts, strict=True))
    pool = Pool(image, np.zeros(len(image), np.bool_), xy, descriptors)
    rng = random.rng(0, "fit")
    init = start(size, K)
    clusters = kmeans.fit(descriptors, K, rng, restarts=1, iterations=ITERATIONS, cap=cap, init=init)
    kept, own = label.closest(pool, clusters.centroids)
    found = label.of_pool(kept, own, clusters.centroids)
    return found.image, found.xy, found.label


def held(images: int, each: int, size: int, cap: int) -> Labelled:
    """The same of arrays."""
    parts = [(batch.image, batch.xy, batch.descriptor) for batch in points(images, each, size)]
    image, xy, x = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert np.isfinite(x).all()
    used = x[np.sort(random.rng(0, "fit").choice(len(x), cap, replace=False))] if len(x) > cap else x
    with threadpool_limits(runtime.threads() if used.size * K > search.ONE_THREAD else 1):
        limits = {"max_points_per_centroid": len(used), "min_points_per_centroid": 1}
        trainer = faiss.Kmeans(size, K, niter=ITERATIONS, **limits)
        trainer.train(used, init_centroids=kmeans._fill_empty(used, start(size, K)))
    centroids = np.asarray(trainer.centroids, dtype=np.float32)
    for _ in range(2):  # once for the clusters, once for the labels
        with threadpool_limits(runtime.threads() if x.size * K > search.ONE_THREAD else 1):
            distance, number = faiss.knn(x, centroids, 1)
    own = np.asarray(number[:, 0], dtype=np.int64)
    best = match.exemplars(image, own, np.asarray(distance[:, 0], dtype=np.float32))
    match.cosine(x[best], centroids[own[best]])
    return image[best], xy[best], own[best]


def measured(
    way: Callable[..., Labelled], images: int, each: int, size: int, cap: int
) -> tuple[float, float, Labelled]:
    """Seconds, most MiB resident beyond what the process began with, and the result."""
    way(30, 5, 8, 100)  # what is loaded when it is first used
    before, begin = peak(), time.perf_counter()
    found = way(images, each, size, cap)
    return time.perf_counter() - begin, peak() - before, found


def peak() -> float:
    """Most MiB that were resident in this process (Linux), pages of mapped files among them."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def main(small: bool) -> None:
    images, each, size, cap = (30, 5, 8, 100) if small else (200_000, 30, 128, 800_000)
    seconds, memory, found = {}, {}, []
    for name, way in {"uld (on disk)": ours, "all in memory": held}.items():
        # a process each: the peak of a process never falls
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            seconds[name], memory[name], labelled = alone.submit(measured, way, images, each, size, cap).result()
        found.append(labelled)
    for one, other in zip(*found, strict=True):
        same("exemplars", one, other)
    topic = f"cluster stage, {images} images x {each} points x {size}, K={K}, cap {cap}"
    print(f"{topic}: {4 * images * each * size / 2**20:.0f} MiB of descriptors")
    report(topic, seconds, images, "images", "all in memory")
    for name, value in memory.items():
        ratio = f"   RATIO {memory['all in memory'] / max(value, 1):.2f} x against all in memory"
        print(f"{topic}: {name}: peak memory {value:.0f} MiB{ratio * (name != 'all in memory')}")


if __name__ == "__main__":
    run(main)
