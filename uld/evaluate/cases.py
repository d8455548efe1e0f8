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
from uld.evaluate.protocols import Protocol, label

Array = NDArray[np.float64]

FEWEST = 2  # training images of a regressor: one alone has no spread


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

    @property
    def landmarks(self) -> int:
        """K."""
        return self.predictions.found.xy.shape[1]

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


@dataclass(frozen=True)
class Target:
    """One (protocol, mark-up): the annotations as the protocol sees them.

    annotated (N, P, 2), normaliser (N,) and pool as in `Case`; annotated_test: the test rows that have a point.
    """

    key: tuple[str, str]
    protocol: Protocol
    annotated: Array
    normaliser: Array
    pool: NDArray[np.int64]
    annotated_test: NDArray[np.int64]

    @property
    def test(self) -> NDArray[np.int64]:
        """The test rows that can be scored: those with a normaliser."""
        return self.annotated_test[np.isfinite(self.normaliser[self.annotated_test])]


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


def spanned_by(protocol: Protocol, one: AnnotationSet) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The points whose two means span the normaliser; none where it is the box of the points."""
    if protocol.normaliser == "box":
        return (), ()
    spans = {points: ((a,), (b,)) for points, a, b in protocol.spans}
    return spans.get(one.xy.shape[1], (one.left, one.right))


def normaliser(protocol: Protocol, one: AnnotationSet, annotated: Array) -> Array:
    """The length (N,) that errors are divided by, from annotated points (N, P, 2); NaN where it is not defined."""
    left, right = spanned_by(protocol, one)
    if left and right:
        ends = annotated[:, list(left)].mean(axis=1) - annotated[:, list(right)].mean(axis=1)
        length = np.linalg.norm(ends, axis=1)
    else:
        there = present(annotated)[..., None]
        high = np.where(there, annotated, -np.inf).max(axis=1, initial=-np.inf)
        low = np.where(there, annotated, np.inf).min(axis=1, initial=np.inf)
        # an image with no point at all has high - low = -inf, one with a single point 0: neither has a scale
        length = np.sqrt(np.maximum(high - low, 0).prod(axis=1))
    return np.where(length > 0, length, np.nan)


def targets(inputs: Inputs, protocols: dict[str, Protocol]) -> Iterator[Target]:
    """Every mark-up as every protocol sees it."""
    split = inputs.predictions.split
    for name, protocol in protocols.items():
        for set_name, one in inputs.sets.items():
            annotated = to_frame(protocol.frame, one.xy, inputs.boxes, inputs.sizes)
            known = present(annotated).any(axis=1)
            train = np.flatnonzero(known & (split == "train"))
            size = protocol.pool if isinstance(protocol.pool, int) else int(protocol.pool * len(train))
            test = np.flatnonzero(known & (split == "test"))
            length = normaliser(protocol, one, annotated)
            yield Target((name, set_name), protocol, annotated, length, train[:size], test)


def obstacle(target: Target, landmarks: int) -> str:
    """Why a protocol can score nothing of a mark-up with so many discovered `landmarks`; empty where it can."""
    protocol, points = target.protocol, target.annotated.shape[1]
    if protocol.points and points not in protocol.points:
        return f"needs {' or '.join(map(str, protocol.points))} points, this mark-up has {points}"
    if not protocol.centred and not landmarks:
        return "needs a landmark: its map has no intercept"
    if len(target.pool) < FEWEST:
        return _too_few(FEWEST, target)
    if not len(target.annotated_test):
        return "needs an annotated test image, there is none"
    if not len(target.test):
        return f"its normaliser is defined in none of the annotated test images ({len(target.annotated_test)})"
    return ""


def unscored(inputs: Inputs, protocols: dict[str, Protocol]) -> dict[tuple[str, ...], str]:
    """What gets no figure, and why: (protocol, mark-up) or (protocol, mark-up, rows: n300) -> reason.

    Without any mark-up it is (protocol,) -> reason.
    """
    if not inputs.sets:
        return {(name,): "there are no annotations" for name in protocols}
    found: dict[tuple[str, ...], str] = {}
    for target in targets(inputs, protocols):
        if why := obstacle(target, inputs.landmarks):
            found[target.key] = why
        else:
            found |= {(*target.key, label(rows)): why for rows, why in _unserved(target).items()}
    return found


def _unserved(target: Target) -> dict[int, str]:
    """Numbers of regressor rows that there are too few images for -> why."""
    protocol = target.protocol
    lacking = [rows for rows in protocol.rows if rows not in protocol.served(len(target.pool))]
    return {rows: _too_few(protocol.takes(rows), target) for rows in lacking}


def _too_few(needed: int, target: Target) -> str:
    return f"needs {needed} annotated training images, may use {len(target.pool)}"


def cases(inputs: Inputs, protocols: dict[str, Protocol]) -> Iterator[Case]:
    """Every (protocol, mark-up, kind) that can be scored; `unscored` names the others."""
    found = inputs.predictions.found
    kinds = {"dense": found.dense_xy, "detected": found.xy, "filled": found.filled_xy}
    for one in targets(inputs, protocols):
        if obstacle(one, inputs.landmarks):
            continue
        for kind, xy in kinds.items():
            landmarks = to_frame(one.protocol.frame, xy, inputs.boxes, inputs.sizes)
            yield Case((*one.key, kind), one.protocol, landmarks, one.annotated, one.normaliser, one.pool, one.test)
