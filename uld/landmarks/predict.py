"""Find a row's landmarks in every image of a data set."""

import numpy as np
import pandas as pd

from uld.artifacts.found import Found, joined
from uld.artifacts.landmarks import Landmarks
from uld.artifacts.predictions import Predictions, Warped
from uld.base import progress
from uld.geometry.frames import Rows
from uld.methods.base import Method
from uld.sources.source import Source


def predict(method: Method, landmarks: Landmarks, source: Source, boxes: pd.DataFrame) -> Predictions:
    """Landmarks of all images in image pixels, and of the test images under the evaluation's warps.

    Args:
        boxes: boxes.csv.
    """
    images, split = (boxes[key].to_numpy(dtype=object) for key in ("image", "split"))
    batches = progress.batches("finding landmarks", np.arange(len(boxes)))
    parts = [placed(method, landmarks, source, rows) for rows in batches]
    return Predictions(
        images, split, joined(parts), _warped(method, landmarks, source, np.flatnonzero(split == "test"))
    )


def placed(method: Method, landmarks: Landmarks, source: Source, rows: Rows) -> Found:
    """Landmarks of a batch of images as they are, in image pixels."""
    view = source.views.plain
    return method.find(source, landmarks, rows, view).placed(lambda xy: source.to_image(rows, xy, view))


def _warped(method: Method, landmarks: Landmarks, source: Source, rows: Rows) -> Warped:
    """Dense matches of images under each of the evaluation's warps, moved back."""
    xy = np.full((len(rows), len(source.views.evaluation), len(landmarks.centroids), 2), np.nan, np.float32)
    for number, view in enumerate(source.views.evaluation):
        parts = [
            source.to_image(some, method.match(source, landmarks, some, view), view)
            for some in progress.batches(f"evaluation warp {number + 1}", rows)
        ]
        xy[:, number] = np.concatenate(parts)
    return Warped(rows, xy)
