"""Whether pose clusters are poses: against the yaw of annotated images (D-ULD++, CVPR 2024, figure 7)."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from uld.errors import ULDError

EDGES = (-60.0, -30.0, 30.0, 60.0)  # degrees: profile, half profile, frontal, and the same to the other side
RANGES = ("left_profile", "left_half", "frontal", "right_half", "right_profile")  # of these edges, as metrics name them


def yaw_bins(yaw: NDArray[np.floating], edges: tuple[float, ...] = EDGES) -> NDArray[np.int64]:
    """Range (n,) of yaw that each image is in, from 0; -1 where its yaw is not known.

    Args:
        yaw: (n,) degrees, NaN = unknown.
        edges: rising, degrees; a yaw at an edge is in the range above it.

    Raises:
        ULDError: no yaw is known.
    """
    known = _some(np.isfinite(yaw))
    return np.where(known, np.digitize(yaw, edges), -1).astype(np.int64)


def explained(label: NDArray[np.integer], yaw: NDArray[np.floating]) -> float:
    """Share of the variance of yaw that lies between clusters (eta squared), in [0, 1].

    Q clusters drawn at random among n images explain (Q - 1) / (n - 1) on average. NaN if all have the same yaw.

    Args:
        label: (n,) pose cluster of each image.
        yaw: (n,) degrees; images with NaN are left out.

    Raises:
        ULDError: no yaw is known.
    """
    known = _some(np.isfinite(yaw))
    value = yaw[known].astype(np.float64)
    _, own = np.unique(label[known], return_inverse=True)
    if np.ptp(value) == 0:
        return float("nan")
    mean = np.bincount(own, value) / np.bincount(own)
    return float(((mean[own] - value.mean()) ** 2).sum() / ((value - value.mean()) ** 2).sum())


def pose_accuracy(label: NDArray[np.integer], bins: NDArray[np.integer]) -> float:
    """Share of images whose cluster is matched to the range of yaw that they are in.

    Clusters and ranges are matched one to one, so that most images agree (Hungarian algorithm); a cluster or range that
    is left over agrees with nothing.

    Args:
        label: (n,) pose cluster of each image.
        bins: (n,) of `yaw_bins`; images with -1 are left out.

    Raises:
        ULDError: no yaw is known.
    """
    known = _some(bins >= 0)
    pair = label[known], bins[known]
    together = np.zeros((pair[0].max() + 1, pair[1].max() + 1), dtype=np.int64)
    np.add.at(together, pair, 1)
    return float(together[linear_sum_assignment(together, maximize=True)].sum() / known.sum())


def _some(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not known.any():
        raise ULDError("the analysis of poses needs yaw, and no image has one: choose a data set with yaw or leave it.")
    return known
