"""Two curves that both go by the name CED: one over images, one over landmarks."""

import numpy as np
from numpy.typing import NDArray

from uld.evaluate.cases import Array

POINTS = 101


def ced(images: NDArray[np.floating], limit: float) -> tuple[Array, Array]:
    """Cumulative error distribution: thresholds (101,) from 0 to `limit`, and the share of images at most that wrong.

    Args:
        images: (N,) image NME as shares of the normaliser, without NaN.
        limit: the largest threshold.
    """
    thresholds = np.linspace(0, limit, POINTS)
    return thresholds, np.searchsorted(np.sort(images), thresholds, side="right") / max(len(images), 1)


def auc(images: NDArray[np.floating], limit: float) -> float:
    """Area under the exact CED up to `limit`, divided by `limit`: 1 is perfect."""
    return float(np.clip(1 - images / limit, 0, None).mean())


def failure(images: NDArray[np.floating], limit: float) -> float:
    """Share of images whose NME exceeds `limit`."""
    return float((images > limit).mean())


def cumulative(landmarks: Array) -> Array:
    """Mean NME (P,) of the best 1, 2, ... P points: what the Mallis thesis (ch. 6) plots; it is no distribution.

    Args:
        landmarks: (P,) NME of each point; NaN (never seen) is left out.
    """
    known = np.sort(landmarks[~np.isnan(landmarks)])
    return np.cumsum(known) / np.arange(1, len(known) + 1)
