"""Pseudo-labels of a round: artifacts/labels/<round>/labels.h5."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import given, read_arrays, write_arrays


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels of a round (artifacts/labels/R/labels.h5), one line a labelled point, sorted by view and image.

    image (M,) int64 rows of boxes.csv; view (M,) int64: the view of the bank that was labelled, the plain or the
    mirrored one; label (M,) int64 landmark, at most one of each in a view of an image; xy (M, 2) float32 image pixels;
    score (M,) float32, cosine to the centroid; detected (M,) bool: a detection and not a dense match; pose (M,) int64
    pose cluster of the image in that view, of two-stage clustering only.
    """

    image: NDArray[np.int64]
    view: NDArray[np.int64]
    label: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    detected: NDArray[np.bool_]
    pose: NDArray[np.int64] | None = None


def write_labels(path: Path, labels: Labels) -> None:
    """Write artifacts/labels/R/labels.h5."""
    write_arrays(path, given(labels))


def read_labels(path: Path) -> Labels:
    """Read artifacts/labels/R/labels.h5."""
    return Labels(**read_arrays(path, "cluster"))


def poses_of(labels: Labels, rows: NDArray[np.int64], view: int) -> NDArray[np.int64]:
    """Pose (n,) of the images `rows` (n,), sorted, in a view; -1 of an image without a label."""
    pose = np.full(len(rows), -1, dtype=np.int64)
    mine = (labels.view == view) & np.isin(labels.image, rows)
    if labels.pose is not None:
        pose[np.searchsorted(rows, labels.image[mine])] = labels.pose[mine]
    return pose
