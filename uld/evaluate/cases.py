"""What is scored: predictions joined with annotations, in the frame and with the normaliser of a protocol.

N images in the order of boxes.csv, K discovered landmarks, P annotated points.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.annotations import AnnotationSet, align, read_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_table
from uld.artifacts.index import read_index
from uld.artifacts.predictions import Predictions, read_predictions
from uld.base.errors import ArtifactError
from uld.evaluate import yaw
from uld.evaluate.protocols import Protocol

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """All that the evaluation of one table row reads.

    boxes (N, 4) x1, y1, x2, y2 as edges; index: what the data set says of the N images; sets: the mark-ups with
    xy (N, P, 2) aligned with the predictions, NaN where an image or a point is not annotated; missed: images of the
    data set without an object box, hence without predictions.
    """

    predictions: Predictions
    boxes: Array
    index: pd.DataFrame
    sets: dict[str, AnnotationSet]
    missed: int

    @property
    def sizes(self) -> Array:
        """(N, 2) width and height in pixels."""
        return self.index[["width", "height"]].to_numpy(dtype=np.float64)

    @cached_property
    def yaw(self) -> Array:
        """(N,) degrees, NaN where it is not known."""
        return yaw.of_images(self.index, self.sets)


@dataclass(frozen=True)
class Case:
    """One (protocol, mark-up, kind of prediction: dense, detected or filled) to regress and score.

    landmarks (N, K, 2) and annotated (N, P, 2) in the protocol's frame, NaN = absent; normaliser (N,) in the same
    frame, NaN where undefined; pool: the training rows a regressor may use; test: the rows that are scored.
    """

    key: tuple[str, str, str]
    protocol: Protocol
    landmarks: Array
    annotated: Array
    normaliser: Array
    pool: NDArray[np.int64]
    test: NDArray[np.int64]


def load(row: str, folder: Path = Path("artifacts")) -> Inputs:
    """Read and join the files of table row `row`.

    Raises:
        ArtifactError: a file is missing, or predictions and boxes are of different images.
    """
    predictions = read_predictions(folder / "predictions" / f"{row}.h5")
    boxes = read_boxes(folder / "roi" / "boxes.csv")
    if not np.array_equal(boxes["image"].to_numpy(dtype=object), predictions.images):
        raise ArtifactError(f"predictions of '{row}' do not fit boxes.csv: run `dvc repro predict@{row}`.")
    index = read_index(folder / "data" / "index.csv").set_index("image")
    missing = read_table(folder / "roi" / "missing.csv", "roi", ("image", "split", "reason"))
    return Inputs(
        predictions,
        boxes[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64),
        index.reindex(predictions.images),
        align(read_annotations(folder / "data" / "annotations.h5"), predictions.images),
        len(missing),
    )


def present(xy: NDArray[Any]) -> NDArray[np.bool_]:
    """Which points (..., P, 2) are there -> (..., P)."""
    return np.isfinite(xy).all(axis=-1)


def to_frame(frame: str, xy: NDArray[Any], boxes: Array, sizes: Array) -> Array:
    """Points (N, P, 2) from image pixels to a protocol's frame.

    `image`: unchanged. `roi` and `photo`: the object box, or the whole image, stretched to the unit square, as the
    peers do that resize to a square without keeping the aspect.
    """
    points = xy.astype(np.float64)
    if frame == "roi":
        return (points - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2])
    if frame == "photo":
        return (points + 0.5) / sizes[:, None]
    return points


def normaliser(protocol: Protocol, one: AnnotationSet, annotated: Array) -> Array:
    """The length (N,) that errors are divided by, from annotated points (N, P, 2); NaN where it is not defined."""
    spans = {points: ((a,), (b,)) for points, a, b in protocol.spans}
    left, right = spans.get(annotated.shape[1], (one.left, one.right))
    if protocol.normaliser == "declared" and left and right:
        ends = annotated[:, list(left)].mean(axis=1) - annotated[:, list(right)].mean(axis=1)
        length = np.linalg.norm(ends, axis=1)
    else:
        there = present(annotated)[..., None]
        high = np.where(there, annotated, -np.inf).max(axis=1, initial=-np.inf)
        low = np.where(there, annotated, np.inf).min(axis=1, initial=np.inf)
        # an image with no point at all has high - low = -inf, one with a single point 0: neither has a scale
        length = np.sqrt(np.maximum(high - low, 0).prod(axis=1))
    return np.where(length > 0, length, np.nan)


def cases(inputs: Inputs, protocols: dict[str, Protocol]) -> Iterator[Case]:
    """Every (protocol, mark-up, kind) that can be scored: some annotated image in both splits, and a map to fit."""
    found, split = inputs.predictions.found, inputs.predictions.split
    kinds = {"dense": found.dense_xy, "detected": found.xy, "filled": found.filled_xy}
    for name, protocol in protocols.items():
        if not protocol.centred and not found.xy.shape[1]:
            continue  # no landmark and no intercept: nothing to predict from
        for set_name, one in inputs.sets.items():
            if protocol.points and one.xy.shape[1] not in protocol.points:
                continue
            annotated = to_frame(protocol.frame, one.xy, inputs.boxes, inputs.sizes)
            length = normaliser(protocol, one, annotated)
            known = present(annotated).any(axis=1)
            train = np.flatnonzero(known & (split == "train"))
            test = np.flatnonzero(known & (split == "test") & np.isfinite(length))
            size = protocol.pool if isinstance(protocol.pool, int) else int(protocol.pool * len(train))
            if len(train[:size]) < 2 or not len(test):
                continue
            for kind, xy in kinds.items():
                landmarks = to_frame(protocol.frame, xy, inputs.boxes, inputs.sizes)
                yield Case((name, set_name, kind), protocol, landmarks, annotated, length, train[:size], test)
