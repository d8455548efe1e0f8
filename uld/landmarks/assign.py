"""One point a landmark and one landmark a point, in every image (Mallis, thesis, 2023, equation 5.2)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from uld.landmarks.label import Pool

PIECE = 2**13  # points whose distances to all centroids are held at a time, and the rest of their last image


def assign(
    points: Pool, centroids: NDArray[np.float32], far: float | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Points and landmarks of each image, so that the sum of squared distances is least (Hungarian algorithm).

    Where an image has more points than there are landmarks, those stay out that cost most; else each point has a
    landmark, which may be a poor one. Hence `far`.

    Args:
        points: N. centroids: (M, D).
        far: a point loses its landmark if its squared distance exceeds the mean of the points that are nearest to that
            centroid by more than so many of their standard deviations; None: it never does.

    Returns:
        index (P,) of the points that have a landmark, rising, and its number (P,): no two of an image and flip have the
        same.
    """
    count = len(points.image)
    near, least = np.empty(count, dtype=np.int64), np.empty(count)
    nothing = np.empty(0, dtype=np.int64)
    index, label, cost = [nothing], [nothing], [np.empty(0, dtype=np.float32)]
    edges = _edges(points)
    cuts = np.unique(edges[np.searchsorted(edges, [0, *range(PIECE, count, PIECE), count])])
    for first, last in pairwise(cuts.tolist()):
        gap = squared(points.descriptor[first:last], centroids)
        near[first:last], least[first:last] = gap.argmin(1), gap.min(1)
        of_piece = slice(int(np.searchsorted(edges, first)), int(np.searchsorted(edges, last)) + 1)
        for start, stop in pairwise((edges[of_piece] - first).tolist()):
            point, own = linear_sum_assignment(gap[start:stop])
            index.append(first + start + point)
            label.append(own)
            cost.append(gap[start + point, own])
    taken, given, paid = np.concatenate(index), np.concatenate(label), np.concatenate(cost)
    if far is None:
        return taken, given
    close = paid <= limits(near, least, len(centroids), far)[given]
    return taken[close], given[close]


def squared(x: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances (N, M) of points (N, D) to centroids (M, D)."""
    gap = (x**2).sum(1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(1)
    return np.maximum(gap, 0)


def limits(near: NDArray[np.int64], distance: NDArray[np.floating], count: int, far: float) -> NDArray[np.float64]:
    """Mean and `far` standard deviations (M,) of the squared distances of each cluster; 0 of an empty one.

    Args:
        near: (N,) cluster of each point, below M = `count`. distance: (N,) squared, to its centroid.
    """
    size = np.maximum(np.bincount(near, minlength=count), 1)
    mean = np.bincount(near, distance, count) / size
    variance = np.bincount(near, (distance - mean[near]) ** 2, count) / size
    limit: NDArray[np.float64] = mean + far * np.sqrt(variance)
    return limit


def _edges(points: Pool) -> NDArray[np.int64]:
    """Where the points of one image and flip end and those of the next begin: 0, ..., N."""
    changed = (np.diff(points.image) != 0) | (np.diff(points.flipped) != 0)
    return np.concatenate([[0], np.flatnonzero(changed) + 1, [len(points.image)]])
