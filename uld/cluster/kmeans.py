"""k-means: k-means++ seeds by scikit-learn, Lloyd iterations by faiss, nothing sampled behind the caller's back."""

import logging
from dataclasses import dataclass
from typing import Annotated

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from threadpoolctl import threadpool_limits

from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import search
from uld.cluster.spool import Table, pieces

log = logging.getLogger(__name__)

SEEDING_POINTS = 50_000  # k-means++ draws its seeds among so many points; the iterations use all of them


@closed(frozen=True, config=CLOSED)
class KMeansParams:
    """How points are clustered."""

    max_points: Annotated[int, Field(ge=1)]  # that the centroids are fitted on; of more, so many are drawn
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]  # of Lloyd, at most, each time


@dataclass(frozen=True)
class Clusters:
    """K clusters of M points.

    centroids (K, D) float32; labels (M,) int64; distance (M,) float32 squared L2 to the own centroid; counts (K,) int64
    points a cluster, 0 where empty; inertia: sum of `distance`; used: points that the centroids were fitted on.
    """

    centroids: NDArray[np.float32]
    labels: NDArray[np.int64]
    distance: NDArray[np.float32]
    counts: NDArray[np.int64]
    inertia: float
    used: int


def fit(
    x: Table,
    k: int,
    rng: np.random.Generator,
    *,
    restarts: int,
    iterations: int,
    cap: int,
    init: NDArray[np.float32] | None = None,
) -> Clusters:
    """Cluster points (M, D) into K groups by squared L2 distance; all M points get a label.

    Args:
        x: (M, D) float32, finite. Of a `Spool` up to `cap` points are in memory, and a piece of the others at a time.
        k: K.
        rng: draws the seeds and, above the cap, the points.
        restarts: fresh starts, of which the one of least inertia stays.
        iterations: most Lloyd iterations a start.
        cap: most points that the centroids are fitted on; if M is larger, a warning says so.
        init: (K, D) centroids of an earlier fit. Then there is one start, from these, and cluster k goes on as cluster
            k; a cluster that wins no point starts anew from the point farthest from all centroids. Without it,
            clusters are in the order of falling size.

    Raises:
        ULDError: fewer points than clusters, or a value that is not finite.
    """
    _check(x, k, cap)
    if len(x) <= cap:
        used = x[:]
    else:
        log.warning("k-means is fitted on %d of %d points (cap)", cap, len(x))
        used = x[np.sort(rng.choice(len(x), cap, replace=False))]
    starts = _seeds(used, k, rng, restarts) if init is None else [_fill_empty(used, init)]
    with search.threads(used.size * k):
        centroids, _ = min((_lloyd(used, start, iterations) for start in starts), key=lambda run: run[1])
        labels, distance = nearest(x, centroids)
    counts = np.bincount(labels, minlength=k)
    if init is None:
        order = np.argsort(-counts, kind="stable")
        centroids, counts, labels = centroids[order], counts[order], np.argsort(order)[labels]
    return Clusters(centroids, labels, distance, counts, float(distance.sum(dtype=np.float64)), len(used))


def fitted(
    x: Table, k: int, rng: np.random.Generator, params: KMeansParams, init: NDArray[np.float32] | None = None
) -> Clusters:
    """`fit` with a block of params."""
    p = params
    return fit(x, k, rng, restarts=p.restarts, iterations=p.iterations, cap=p.max_points, init=init)


def nearest(x: Table, centroids: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest centroid of each point: label (M,) and squared L2 distance (M,)."""
    label, distance = np.empty(len(x), dtype=np.int64), np.empty(len(x), dtype=np.float32)
    for piece, near, which in search.neighbours(x, centroids, 1):
        distance[piece], label[piece] = near[:, 0], which[:, 0]
    return label, distance


def of(x: Table, centroids: NDArray[np.float32]) -> Clusters:
    """The clusters that given centroids (K, D) make of points (M, D)."""
    labels, distance = nearest(x, centroids)
    counts = np.bincount(labels, minlength=len(centroids))
    return Clusters(centroids, labels, distance, counts, float(distance.sum(dtype=np.float64)), len(x))


def _check(x: Table, k: int, cap: int) -> None:
    if k < 1:
        raise ULDError(f"k-means cannot make {k} clusters: ask for at least one landmark.")
    if min(len(x), cap) < k:
        raise ULDError(
            f"k-means cannot make {k} clusters of {len(x)} points (cap {cap}): ask for fewer landmarks, "
            f"or for more points or images."
        )
    bad = sum(np.count_nonzero(~np.isfinite(x[piece]).all(axis=1)) for piece in pieces(len(x)))
    if bad:
        raise ULDError(f"{bad} of {len(x)} descriptors are not finite: the features are broken, make them anew.")


def _seeds(x: NDArray[np.float32], k: int, rng: np.random.Generator, restarts: int) -> list[NDArray[np.float32]]:
    """k-means++ seeds (K, D), anew for each restart (Arthur and Vassilvitskii 2007)."""
    from sklearn.cluster import kmeans_plusplus  # two seconds, and finding the nearest centroid needs none

    seeds = []
    # the import may have brought a thread pool that `search.threads` does not know
    with threadpool_limits(search.worth(x.size * k)):
        for _ in range(restarts):
            some = x
            if len(x) > max(SEEDING_POINTS, k):
                some = x[rng.choice(len(x), max(SEEDING_POINTS, k), replace=False)]
            seeds.append(kmeans_plusplus(some, k, random_state=int(rng.integers(2**31)))[0])
    return [np.asarray(one, dtype=np.float32) for one in seeds]


def _lloyd(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int) -> tuple[NDArray[np.float32], float]:
    """Centroids (K, D) after Lloyd iterations on all points, and their inertia.

    A cluster that loses its last point on the way is set beside the largest one by faiss.
    """
    k, size = start.shape
    # faiss by itself fits on 256 points a cluster at most and warns below 39
    points = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
    trainer = faiss.Kmeans(size, k, niter=iterations, gpu=search.on_gpu(x.size * k * iterations), **points)
    trainer.train(x, init_centroids=start)
    centroids = np.asarray(trainer.centroids, dtype=np.float32)
    _, distance = nearest(x, centroids)
    return centroids, float(distance.sum(dtype=np.float64))


def _fill_empty(x: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centroids (K, D) where each one that wins no point of `x` is moved to the point farthest from all the others."""
    labels, distance = nearest(x, centroids)
    filled = centroids.copy()
    for k in np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0):
        filled[k] = x[distance.argmax()]
        distance = np.minimum(distance, nearest(x, filled[k : k + 1])[1])
    return filled
