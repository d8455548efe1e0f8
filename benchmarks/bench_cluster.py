"""The work of a cluster stage on detected points, against scikit-learn and a Python loop over images; peak memory."""

import resource

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from timing import Ways, measure, report, run, same

from uld import runtime
from uld.cluster import kmeans
from uld.cluster.detect import Points
from uld.cluster.label import exemplars


def points(images: int, each: int, size: int, k: int) -> Points:
    """Points of unit length around K directions."""
    rng = runtime.rng(0, "bench-cluster")
    home = rng.normal(size=(k, size)).astype(np.float32)
    x = home[rng.integers(k, size=images * each)]
    x += rng.normal(size=x.shape, scale=0.5).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    xy = rng.uniform(0, 63, (len(x), 2)).astype(np.float32)
    return Points(np.repeat(np.arange(images), each), xy, np.ones(len(x), np.float32), x)


def main(small: bool) -> None:
    images, each, size, k, iterations, repeats = (30, 5, 8, 3, 5, 1) if small else (20_000, 30, 128, 10, 100, 1)
    found = points(images, each, size, k)
    start = found.descriptor[:: len(found.image) // k][:k].copy()

    def ours() -> NDArray[np.float32]:
        rng = runtime.rng(0, "fit")
        clusters = kmeans.fit(
            found.descriptor, k, rng, restarts=1, iterations=iterations, cap=len(found.image), init=start
        )
        return exemplars(found, clusters.centroids, images)[0]

    def loop() -> NDArray[np.float32]:
        with threadpool_limits(runtime.threads()):
            fitted = KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0).fit(found.descriptor)
        xy = np.full((images, k, 2), np.nan, np.float32)
        distance = fitted.transform(found.descriptor)
        for number in range(images):
            rows = np.arange(number * each, (number + 1) * each)
            for cluster in range(k):
                own = rows[fitted.labels_[rows] == cluster]
                if len(own):
                    xy[number, cluster] = found.xy[own[distance[own, cluster].argmin()]]
        return xy

    ways: Ways = {"uld": ours, "scikit-learn and a loop": loop}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    seconds, xy = measure(ways, repeats)
    one, other = xy.values()
    agree = np.isclose(one, other, equal_nan=True).mean()
    same("share of equal exemplars", agree > 0.99, True)
    topic = f"cluster stage, {images} images x {each} points x {size}, K={k}"
    print(f"{topic}: {peak:.0f} MiB over the {found.descriptor.nbytes / 2**20:.0f} MiB of descriptors")
    report(topic, seconds, images, "images", "scikit-learn and a loop")


if __name__ == "__main__":
    run(main)
