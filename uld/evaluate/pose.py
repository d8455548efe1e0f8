"""Whether pose clusters are poses: against the yaw of annotated images (D-ULD++, CVPR 2024, figure 7)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from uld.base.errors import ULDError

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


def accuracy(label: NDArray[np.integer], bins: NDArray[np.integer]) -> tuple[float, NDArray[np.float64]]:
    """Share of images that are in the range of yaw which their cluster stands for: that of most of its images.

    It can't fall when a cluster is split, and one cluster alone reaches the share of the commonest range: compare with
    that, and between equal numbers of clusters.

    Args:
        label: (n,) pose cluster of each image.
        bins: (n,) of `yaw_bins`; images with -1 are left out.

    Returns:
        The share of all images; and (ranges,) for each range the share among the images of the clusters that stand for
        it, NaN where none does.

    Raises:
        ULDError: no yaw is known.
    """
    together = _together(label, bins)
    stands, images, right = together.argmax(1), together.sum(1), together.max(1)
    ranges = len(RANGES)
    of = np.bincount(stands, images, minlength=ranges)
    share = np.divide(np.bincount(stands, right, minlength=ranges), of, out=np.full(len(of), np.nan), where=of > 0)
    return float(right.sum() / images.sum()), share


def matched_accuracy(label: NDArray[np.integer], bins: NDArray[np.integer]) -> float:
    """The same with clusters and ranges matched one to one, so that most images agree (Hungarian algorithm).

    A cluster or range that is left over agrees with nothing.

    Raises:
        ULDError: no yaw is known.
    """
    together = _together(label, bins)
    return float(together[linear_sum_assignment(together, maximize=True)].sum() / together.sum())


def accuracy_of_yaw(yaw: NDArray[np.floating], count: int) -> float:
    """`accuracy` of k-means of the yaw itself in so many clusters: what codes that are nothing but yaw come to.

    Ranges are not of equal width and k-means draws its borders where it likes, so that is less than 1.

    Args:
        yaw: (n,) degrees, NaN = unknown.
        count: clusters; no more than there are different values.

    Raises:
        ULDError: no yaw is known.
    """
    from sklearn.cluster import KMeans  # a second, and few ask for it

    known = yaw[_some(np.isfinite(yaw))]
    count = min(count, len(np.unique(known)))
    label = KMeans(count, n_init=10, random_state=0).fit_predict(known[:, None])
    return accuracy(label, yaw_bins(known))[0]


def scores(label: NDArray[np.integer], yaw: NDArray[np.floating]) -> dict[str, Any]:
    """All figures of pose clusters label (n,) against yaw (n,) in degrees, NaN = unknown; for a metrics file.

    Raises:
        ULDError: no yaw is known.
    """
    bins = yaw_bins(yaw)
    share, ranges = accuracy(label, bins)
    clusters = len(np.unique(label))
    return {
        "clusters": clusters,
        "yaw_explained": explained(label, yaw),
        "accuracy": share,
        "chance": float(np.bincount(bins[bins >= 0]).max() / (bins >= 0).sum()),  # of one cluster for all
        "of_yaw": accuracy_of_yaw(yaw, clusters),
        "matched": matched_accuracy(label, bins),
        "ranges": dict(zip(RANGES, ranges.tolist(), strict=True)),
    }


def _together(label: NDArray[np.integer], bins: NDArray[np.integer]) -> NDArray[np.int64]:
    """(clusters, ranges) images."""
    known = _some(bins >= 0)
    _, own = np.unique(label[known], return_inverse=True)
    together = np.zeros((own.max() + 1, max(int(bins.max()) + 1, 1)), dtype=np.int64)
    np.add.at(together, (own, bins[known]), 1)
    return together


def _some(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not known.any():
        raise ULDError("the analysis of poses needs yaw, and no image has one: choose a data set with yaw or leave it.")
    return known
