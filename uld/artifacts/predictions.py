"""Landmarks of all images: artifacts/predictions/<row>.h5."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import read_arrays, record, write_arrays
from uld.artifacts.found import Found

WARPED = "warped/"


@dataclass(frozen=True)
class Warped:
    """Landmarks found again in warped test images.

    rows (T,) int64 of boxes.csv; xy (T, E, K, 2): dense matches in each of the evaluation's E warps, in image pixels.
    """

    rows: NDArray[np.int64]
    xy: NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """What one table row finds in all N images.

    images (N,) ids and split (N,), in the order of boxes.csv; found: of the N images, in image pixels; warped: of the
    test images under the evaluation's warps.
    """

    images: NDArray[Any]
    split: NDArray[Any]
    found: Found
    warped: Warped


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write artifacts/predictions/<row>.h5."""
    arrays = {"images": predictions.images, "split": predictions.split, **predictions.found.given()}
    write_arrays(path, arrays | {WARPED + name: value for name, value in vars(predictions.warped).items()})


def read_predictions(path: Path) -> Predictions:
    """Read artifacts/predictions/<row>.h5."""
    arrays = read_arrays(path, "predict")
    named = {name: arrays.pop(name) for name in ("images", "split") if name in arrays}
    warped = {name.removeprefix(WARPED): arrays.pop(name) for name in list(arrays) if name.startswith(WARPED)}
    parts = {
        "found": record(Found, arrays, path, "predict"),
        "warped": record(Warped, warped, path, "predict"),
    }
    return record(Predictions, named | parts, path, "predict")
