"""Shares of points that are close enough: after regression (PCK) and without any regression (raw accuracy)."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from uld.evaluate.cases import Array
from uld.evaluate.nme import mean


def threshold_name(threshold: float) -> str:
    """Key of a threshold without a dot: 0.05 -> at05, 0.025 -> at2p5 (percent)."""
    return "at" + f"{100 * threshold:g}".replace(".", "p").zfill(2)


def pck(errors: NDArray[np.floating], thresholds: tuple[float, ...]) -> dict[str, float]:
    """Share of present points whose error (R, N, P; share of the normaliser) is at most each threshold."""
    known = errors[~np.isnan(errors)]
    return {threshold_name(one): float((known <= one).mean()) for one in thresholds} if known.size else {}


def match(landmarks: Array, annotated: Array, normaliser: Array) -> NDArray[np.int64]:
    """Best one-to-one pairing of discovered and annotated points on training images (Hungarian algorithm).

    Args:
        landmarks: (N, K, 2), NaN = absent.
        annotated: (N, P, 2), NaN = absent.
        normaliser: (N,).

    Returns:
        (M, 2) pairs (discovered, annotated) of least total mean distance; M <= min(K, P), a pair never seen together
        is left out.
    """
    cost = np.empty((landmarks.shape[1], annotated.shape[1]))
    for k in range(len(cost)):
        cost[k] = mean(np.linalg.norm(landmarks[:, k, None] - annotated, axis=2) / normaliser[:, None], 0)
    known = np.isfinite(cost)
    worst = cost[known].max(initial=0)
    pairs = np.stack(linear_sum_assignment(np.where(known, cost, 1e3 * (worst + 1))), axis=1)
    return pairs[known[pairs[:, 0], pairs[:, 1]]]


def raw_accuracy(
    landmarks: Array, annotated: Array, normaliser: Array, pairs: NDArray[np.int64], limit: float
) -> Array:
    """Share (M,) of images in which the matched landmark is within `limit` normalisers of the annotated point.

    An image where the point is annotated and the landmark absent counts as a miss; NaN where no image has the point.
    """
    target = annotated[:, pairs[:, 1]]
    distance = np.linalg.norm(landmarks[:, pairs[:, 0]] - target, axis=2) / normaliser[:, None]
    hit = (distance <= limit).astype(np.float64)
    return mean(np.where(np.isnan(target).any(axis=2), np.nan, hit), 0)
