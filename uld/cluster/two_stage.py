"""Two-stage clustering: images by pose, then descriptors within each pose (D-ULD++, CVPR 2024, section 3.3.2).

The paper leaves open how landmark k of one pose is that of another, though its regressors need it. Here every pose
starts from the centroids of all images, and no cluster is ever thrown elsewhere; `uld.cluster.align` mends the rest.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist

from uld.base.errors import ULDError
from uld.cluster import kmeans
from uld.cluster.spool import Table, pieces, take

log = logging.getLogger(__name__)

ROUNDING = 1e-6  # of a unit's own size, at least of 1: a smaller spread is an error of float32

# --- images by pose ---


@dataclass(frozen=True)
class Poses:
    """Q pose clusters of n images.

    centroids (Q, C) float32; label (n,) int64, the nearest centroid; counts (Q,) int64.
    """

    centroids: NDArray[np.float32]
    label: NDArray[np.int64]
    counts: NDArray[np.int64]

    def assign(self, codes: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Nearest pose of pose codes (m, C), and how far from sure that is.

        Returns:
            label (m,), and margin (m,) in [0, 1]: L2 distance to the nearest centroid over that to the second nearest.
            0: sure, and so it is where there is one pose only; 1: as near to another.
        """
        distance = cdist(codes, self.centroids)
        label = distance.argmin(1).astype(np.int64)
        if len(self.centroids) == 1:
            return label, np.zeros(len(codes), dtype=np.float32)
        first, second = np.partition(distance, 1, axis=1)[:, :2].T
        return label, np.divide(first, second, out=np.ones_like(first), where=second > 0).astype(np.float32)


def pose_clusters(
    codes: NDArray[np.floating],
    count: int,
    rng: np.random.Generator,
    *,
    least: int,
    restarts: int,
    iterations: int,
    init: NDArray[np.floating] | None = None,
) -> Poses:
    """k-means of pose codes (n, C); small clusters are merged, so that each pose can feed a clustering.

    Distances are those of the contrastive loss (equation 3). z-scores would make units count alike, though the encoder
    spreads a unit by how much it has to say.

    Args:
        count: Q, at most so many clusters come out.
        rng: draws the seeds.
        least: images a cluster; the smallest of the smaller ones is joined with the nearest one (weighted mean of the
            two centroids, images then go to their nearest), until none is smaller or one is left.
        restarts, iterations: of `kmeans.fit`.
        init: (Q, C) codes of the poses of an earlier round; pose q goes on as pose q, but for merging, and there are no
            more of them. It is left out of account if it has more than Q.

    Raises:
        ULDError: fewer images than Q, a code that is not finite, or all codes alike.
    """
    if len(codes) < count:
        raise ULDError(
            f"{len(codes)} images cannot have {count} pose clusters: ask for fewer pose clusters, or give more images."
        )
    bad = len(codes) - np.count_nonzero(np.isfinite(codes).all(axis=1))
    if bad:
        raise ULDError(f"pose codes of {bad} of {len(codes)} images are not finite: train the pose proxy anew.")
    if (codes.std(0, dtype=np.float64) <= ROUNDING * np.maximum(1, np.abs(codes).max(0))).all():
        raise ULDError(
            "all images have the same pose code (the pose proxy has collapsed): train it anew, longer, or with a lower "
            "weight of the KL divergence."
        )
    x = np.ascontiguousarray(codes, dtype=np.float32)
    asked, start = count, None
    if init is not None and len(init) <= count:
        count, start = len(init), np.ascontiguousarray(init, dtype=np.float32)
    fitted = kmeans.fit(x, count, rng, restarts=restarts, iterations=iterations, cap=len(x), init=start)
    centroids, label, counts = _merge(x, fitted.centroids, least)
    if len(centroids) < asked:
        log.warning("%d of %d pose clusters remain: the others had fewer than %d images", len(centroids), asked, least)
    return Poses(centroids, label, counts)


def _merge(
    x: NDArray[np.float32], centroids: NDArray[np.float32], least: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Join the smallest cluster with the nearest one while it has no image, or fewer than `least`.

    Returns:
        centroids (Q, C), the nearest one of each image (n,) and the images of each (Q,).
    """
    while True:
        label = cdist(x, centroids).argmin(1).astype(np.int64)
        counts = np.bincount(label, minlength=len(centroids))
        small = counts.argmin()
        if len(centroids) == 1 or counts[small] >= max(least, 1):
            return centroids, label, counts
        gap = np.linalg.norm(centroids - centroids[small], axis=1)
        gap[small] = np.inf
        near = gap.argmin()
        share = counts[small] / max(counts[small] + counts[near], 1)
        centroids = centroids.copy()
        centroids[near] += np.float32(share) * (centroids[small] - centroids[near])
        centroids = np.delete(centroids, small, axis=0)


# --- descriptors within each pose ---


@dataclass(frozen=True)
class Slots:
    """K clusters in each of Q poses.

    centroids (Q, K, D) float32; counts (Q, K) int64 points; xy (Q, K, 2) float32 mean position of those, relative to
    the object, NaN where there are none.
    """

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]
    xy: NDArray[np.float32]

    def ordered(self, order: NDArray[np.int64]) -> "Slots":
        """The slots of pose q in the order (Q, K) that `align` gives, so that slot k means landmark k."""
        pose = np.arange(len(order))[:, None]
        return Slots(self.centroids[pose, order], self.counts[pose, order], self.xy[pose, order])


def keypoint_clusters(
    x: Table,
    pose: NDArray[np.integer],
    xy: NDArray[np.floating],
    centroids: NDArray[np.float32],
    poses: int,
    *,
    iterations: int,
    prior: float,
) -> Slots:
    """k-means of the descriptors of each pose, from the centroids of all poses, so that slot k stays landmark k.

    A slot that wins no point of a pose keeps the centroid of all poses there: `kmeans.fit` would set it to far points,
    where it would mean something else.

    Args:
        x: (M, D) float32 descriptors.
        pose: (M,) below Q, pose of the image of each point.
        xy: (M, 2) position of each point relative to the object, in [0, 1] across its box.
        centroids: (K, D) of all poses.
        poses: Q.
        iterations: most Lloyd iterations a pose.
        prior: points that each centroid of all poses counts for in each pose, so that a small pose stays near it; the
            n points of a slot weigh n / (n + prior). 0: they alone count.
    """
    fitted, counts, places = [], [], []
    for q in range(poses):
        mine = pose == q
        some = take(x, mine)
        own = _adapt(some, centroids, iterations, prior)
        member = _membership(kmeans.nearest(some, own)[0], len(centroids))
        count = member.sum(1)
        place = np.where(count[:, None] > 0, member @ xy[mine] / np.maximum(count, 1)[:, None], np.nan)
        fitted.append(own)
        counts.append(count)
        places.append(place)
    return Slots(np.stack(fitted), np.stack(counts).astype(np.int64), np.stack(places).astype(np.float32))


def _adapt(x: Table, start: NDArray[np.float32], iterations: int, prior: float) -> NDArray[np.float32]:
    """Centroids (K, D) of points (m, D), each pulled towards its start by the weight of `prior` points.

    Lloyd iterations on the squared distances of the points to their centroids and, `prior` times, of the centroids to
    their starts: neither step can raise the sum.
    """
    centroids = start
    for _ in range(iterations):
        label = kmeans.nearest(x, centroids)[0]
        weight = np.bincount(label, minlength=len(start))[:, None] + prior
        total = _sums(x, label, len(start)) + prior * start
        moved = np.where(weight > 0, total / np.where(weight > 0, weight, 1), start).astype(np.float32)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _sums(x: Table, label: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Sums (K, D) of the points (m, D) of each cluster."""
    total = np.zeros((k, x.shape[1]))
    for piece in pieces(len(x)):
        # the sums so far stand first, so that the order of additions is that of one piece
        member = _membership(np.concatenate([np.arange(k), label[piece]]), k)
        total = member @ np.concatenate([total, x[piece]])
    return total


def _membership(label: NDArray[np.int64], k: int) -> sparse.csc_array:
    """(K, m) 1 where point m is in cluster k: times points it is the sums of clusters."""
    m = len(label)
    return sparse.csc_array((np.ones(m), label, np.arange(m + 1)), shape=(k, m))
