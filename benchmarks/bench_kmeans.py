"""k-means of faiss (`uld.cluster.kmeans.fit`) against scikit-learn's, from the same start."""

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from timing import measure, report, run

from uld.base import random, runtime
from uld.cluster import kmeans


def main(small: bool) -> None:
    points, size, k, iterations, repeats = (2000, 8, 4, 10, 1) if small else (400_000, 64, 10, 20, 3)
    rng = random.rng(0, "bench-kmeans")
    centres = rng.normal(size=(3 * k, size))  # more groups than clusters: Lloyd is still moving when it is stopped
    x = (centres[rng.integers(3 * k, size=points)] + rng.normal(size=(points, size))).astype(np.float32)
    start = x[rng.choice(points, k, replace=False)]

    def ours() -> kmeans.Clusters:
        return kmeans.fit(x, k, rng, restarts=1, iterations=iterations, cap=points, init=start)

    def theirs() -> KMeans:
        with warnings.catch_warnings(), threadpool_limits(runtime.threads()):
            warnings.simplefilter("ignore", ConvergenceWarning)
            return KMeans(k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(x)

    seconds, found = measure({"uld (faiss)": ours, "scikit-learn": theirs}, repeats)
    one, other = found["uld (faiss)"], found["scikit-learn"]
    agree = float((one.labels == other.labels_).mean())
    assert abs(one.inertia / other.inertia_ - 1) < 1e-3, "the inertias differ"
    print(f"kmeans: {points} x {size}, K={k}, {iterations} iterations, {runtime.threads()} threads")
    print(f"kmeans: inertia {one.inertia:.6g} (uld), {other.inertia_:.6g} (scikit-learn); equal labels {agree:.2%}")
    report("kmeans", seconds, points * iterations, "points x iterations", "scikit-learn")


if __name__ == "__main__":
    run(main)
