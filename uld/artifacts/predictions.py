"""Landmarks of all images: artifacts/predictions/<row>.h5."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import given, read_arrays, write_arrays


@dataclass(frozen=True)
class Predictions:
    """Landmarks of all images for one table row (artifacts/predictions/V.h5), image pixels.

    images (N,) ids and split (N,) in the order of boxes.csv; xy (N, K, 2) float32, NaN = not detected, with score
    (N, K) (higher is surer, NaN where absent); dense_xy (N, K, 2) and dense_score: the best match of each landmark
    anywhere in the ROI, detected or not; view_xy (N, V, K, 2): the dense prediction made under warp v of the
    evaluation, mapped back to the image (v = 0 is the untouched view; of training images the others are NaN); mirrored
    (V,) bool, none. Of two-stage clustering only:
    pose (N,) int64, and pose_margin (N,) float32: distance to the nearest pose over that to the second nearest, 0 to 1.
    """

    images: NDArray[Any]
    split: NDArray[Any]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]
    view_xy: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    pose: NDArray[np.int64] | None = None
    pose_margin: NDArray[np.float32] | None = None

    @property
    def filled_xy(self) -> NDArray[np.float32]:
        """(N, K, 2): detections where there are some, the best match elsewhere."""
        return np.where(np.isfinite(self.xy), self.xy, self.dense_xy)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write artifacts/predictions/V.h5."""
    write_arrays(path, given(predictions))


def read_predictions(path: Path) -> Predictions:
    """Read artifacts/predictions/V.h5."""
    return Predictions(**read_arrays(path, "predict"))
