"""Measures that need no annotation."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from uld.artifacts.predictions import Predictions
from uld.evaluate.cases import Array, present
from uld.evaluate.nme import mean

TOGETHER = 0.03  # of the box size


def detection_rate(xy: NDArray[np.floating]) -> Array:
    """Share (K,) of images in which each landmark of `xy` (N, K, 2) was detected."""
    return present(xy).mean(axis=0)


def stability(predictions: Predictions, boxes: Array) -> float:
    """How far landmarks move when the image is rotated or scaled, percent of the box size; 0 is perfect.

    The mean distance between a landmark found under a warp, mapped back to the image, and the one found in the image as
    it is, over test images, landmarks and the evaluation's warps, divided by the square root of the box area. The warps
    are the same for every row. NaN if there is no warp or landmark.

    Args:
        predictions: with warped landmarks (T, E, K, 2).
        boxes: (N, 4) x1, y1, x2, y2.
    """
    rows, warped = predictions.warped.rows, predictions.warped.xy
    if not warped.size:
        return float("nan")
    size = np.sqrt(np.prod(boxes[rows, 2:] - boxes[rows, :2], axis=1))
    start = predictions.found.dense_xy[rows].astype(np.float64)
    moved = np.linalg.norm(warped - start[:, None], axis=3) / size[:, None, None]
    return 100 * float(mean(moved.ravel(), 0))


def distinct(xy: NDArray[np.floating], boxes: Array) -> int:
    """How many landmarks are left if those that lie together count as one.

    Two lie together if their distance is below `TOGETHER` of the square root of the box area in most images, and so do
    those that are connected by others. Several landmarks on one spot say no more than one, and the backward error, a
    mean over landmarks, counts the spot as often.

    Args:
        xy: (N, K, 2), nowhere absent. boxes: (N, 4) x1, y1, x2, y2.
    """
    size = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    gap = np.stack(
        [np.median(np.linalg.norm(xy - xy[:, [k]], axis=2) / size[:, None], axis=0) for k in range(xy.shape[1])]
    )
    return int(connected_components(gap < TOGETHER, directed=False)[0])
