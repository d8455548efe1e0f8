"""Which slot of one pose is which of another, where each pose has K clusters of its own.

D-ULD++ (CVPR 2024) does not say; without an answer its regressors would meet another part in the same column. Poses
that are alike show parts that look alike and lie alike, so slots are matched from neighbour to neighbour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial.distance import cdist


@dataclass(frozen=True)
class Drift:
    """How far identities had drifted apart between poses, before alignment and after it.

    moved: share of the slots of all poses but the first matched that are not where they were; apart: mean of
    1 - cosine over the matched pairs of neighbours. Both are 0 where there is one pose.
    """

    moved: float
    apart: float


def align(
    centroids: NDArray[np.floating],
    xy: NDArray[np.floating],
    poses: NDArray[np.floating],
    counts: NDArray[np.integer],
    weight: float,
) -> tuple[NDArray[np.int64], Drift]:
    """Match the slots of each pose to those of its neighbour, outward from the largest pose.

    Neighbours are those of the minimum spanning tree of the pose centroids; the matching is one to one and of least
    cost (Hungarian algorithm). A cost is 1 - cosine of the descriptors + `weight` x distance of the positions, in
    units of the RMS distance of the neighbour's positions from their mean.

    Args:
        centroids: (Q, K, D) of each pose.
        xy: (Q, K, 2) mean positions, relative to the object; a pair with NaN counts as far apart as the mean pair.
        poses: (Q, C) pose centroids.
        counts: (Q,) images of each pose.
        weight: of positions against descriptors. It tells twins apart, which may look alike.

    Returns:
        order (Q, K): slot order[q, k] of pose q is landmark k, see `Slots.ordered`; and what it was good for.
    """
    order = np.tile(np.arange(centroids.shape[1]), (len(poses), 1))
    apart = []
    for parent, child in outward(poses, int(np.argmax(counts))):
        known = order[parent]
        gap = _angles(centroids[parent, known], centroids[child])
        row, order[child] = linear_sum_assignment(gap + weight * _gaps(xy[parent, known], xy[child]))
        apart.append(gap[row, order[child]])
    if not apart:
        return order, Drift(0.0, 0.0)
    moved = (order != np.arange(centroids.shape[1])).sum() / ((len(poses) - 1) * centroids.shape[1])
    return order, Drift(float(moved), float(np.mean(apart)))


def outward(poses: NDArray[np.floating], first: int) -> list[tuple[int, int]]:
    """Edges (parent, child) of the minimum spanning tree of pose centroids (Q, C), from pose `first` outward."""
    # a 0 is no edge to scipy, and poses may coincide; adding to all edges leaves the tree as it is
    tree = minimum_spanning_tree(cdist(poses, poses) + 1 - np.eye(len(poses)))
    found, parent = breadth_first_order(tree, first, directed=False)
    return [(int(parent[child]), int(child)) for child in found[1:]]


def _angles(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 - cosine (K, K) of descriptors (K, D); 1 where one has no length."""
    a, b = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12) for one in (a, b))
    return np.asarray(1 - a @ b.T, dtype=np.float64)


def _gaps(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Distances (K, K) of positions (K, 2) in units of the spread of `a`; 0 where that has none."""
    known = a[np.isfinite(a).all(1)]
    spread = np.sqrt(((known - known.mean(0)) ** 2).sum(1).mean()) if len(known) else 0
    if spread == 0:
        return np.zeros((len(a), len(b)))
    gap = np.linalg.norm(a[:, None] - b, axis=2) / spread
    there = np.isfinite(gap)
    return np.where(there, gap, gap[there].mean() if there.any() else 0)
