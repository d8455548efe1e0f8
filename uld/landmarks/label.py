"""Pseudo-labels: where each landmark is in each training image, and in its mirror image.

A mirrored face is one more face. A point of the mirror image gets the landmark of what it looks like there: a left eye
becomes a right one.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld.artifacts.found import Found, joined
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base import progress
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.spool import Spool, Table, pieces, take
from uld.geometry.frames import Rows
from uld.landmarks import match
from uld.landmarks.detect import DetectParams, PeakParams
from uld.landmarks.match import cosine
from uld.landmarks.seen import look, search
from uld.landmarks.summary import summarise
from uld.methods.base import Task
from uld.sources.source import Source
from uld.sources.views import View

MOVED = 2  # cells: a label that moves farther between two rounds has changed


@closed(frozen=True, config=CLOSED)
class LabelParams:
    """Which matches of a landmark become pseudo-labels."""

    # cells; a detection farther than this from the dense match of its landmark is no label; null: every one is
    max_distance: Annotated[float, Field(gt=0)] | None
    # where no detection is a label, the dense match is one, but for this share of the landmark's least similar; null:
    # dense matches are no labels, as in the paper
    dense: Annotated[float, Field(ge=0, le=1)] | None


# --- points, before it is known what they are ---


@dataclass(frozen=True)
class Pool:
    """M points of the training images and their mirror images, sorted by `flipped` and image.

    image (M,) row of boxes.csv; flipped (M,) bool; xy (M, 2) in image pixels; descriptor (M, D) of unit length, on
    disk: of all that is kept of an image they alone would fill the memory.
    """

    image: Rows
    flipped: NDArray[np.bool_]
    xy: NDArray[np.float32]
    descriptor: Table

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> "Pool":
        """Some of them."""
        return Pool(self.image[index], self.flipped[index], self.xy[index], take(self.descriptor, index))

    def per_image(self, source: Source, rows: Rows) -> NDArray[np.int64]:
        """How many (F, n) each of the images `rows` (n,), sorted, has in each of the F flips."""
        return np.stack(
            [
                np.bincount(np.searchsorted(rows, self.image[self.flipped == view.flipped]), minlength=len(rows))
                for view in source.views.flips
            ]
        )


def detections(source: Source, rows: Rows, params: PeakParams) -> Pool:
    """Detections in the images `rows`, each flip on its own; of several heat maps the highest counts.

    Raises:
        ULDError: there are none.
    """
    parts, found = [], Spool()
    for view in source.views.flips:
        for batch in progress.batches("detecting", rows):
            points = look(source, batch, view).points(params)
            image = batch[points.image]
            xy = source.to_image(image, points.xy[:, None], view)[:, 0]
            parts.append((image, np.full(len(image), view.flipped), xy))
            found.append(points.descriptor)
    if not len(found):
        raise ULDError(
            "no point is detected in any training image: lower methods.*.cluster.detect.threshold or raise min_points."
        )
    image, flipped, xy = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pool(image, flipped, xy, found)


def detected(task: Task, params: PeakParams) -> Pool:
    """`detections` in all training images, once for discovery and labels."""
    key = (detections, params)
    if key not in task.memory:
        task.memory[key] = detections(task.source, task.rows, params)
    pool: Pool = task.memory[key]
    return pool


def picture(points: Pool, centroids: NDArray[np.float32], rng: np.random.Generator) -> Landmarks:
    """What is kept of the clusters that centroids (K, D) make of points.

    Of the images as they are only: where a mirrored left eye was found, the photograph has a right one.
    """
    plain = points.take(~points.flipped)
    shown = kmeans.of(plain.descriptor, centroids)
    return summarise(plain.image, plain.xy, plain.descriptor, shown, rng)


def closest(points: Pool, centroids: NDArray[np.float32]) -> tuple[Pool, NDArray[np.int64]]:
    """The detections that are the nearest of their image and flip to their nearest centroid (Mallis, chapter 6).

    Returns:
        The detections, and the label (P,) of each: no two of an image and flip have the same.
    """
    own, distance = kmeans.nearest(points.descriptor, centroids)
    image = points.flipped * (points.image.max(initial=0) + 1) + points.image
    best = match.exemplars(image, own, distance)
    return points.take(best), own[best]


# --- landmarks, known by their centroids ---


def mark(source: Source, rows: Rows, view: View, centroids: NDArray[np.float32], params: DetectParams) -> Found:
    """Dense matches and exemplar detections in the images `rows`, in cells."""
    return joined([search(look(source, batch, view), centroids, params) for batch in progress.batches("marking", rows)])


def dense(
    source: Source, rows: Rows, view: View, centroids: NDArray[np.float32], params: DetectParams
) -> NDArray[np.float32]:
    """`Found.dense_xy` (B, K, 2) of `mark` alone, without the detector where it does not count."""
    inside = source.inside(rows, view)
    if not params.heat_weight or not source.detects:
        return match.dense(source.describe(rows, view), inside, centroids).found().dense_xy
    maps = source.maps(rows, view)
    return match.dense(maps.looks, inside, centroids, prior=params.prior(maps.heat)).found().dense_xy


def to_labels(source: Source, rows: Rows, marked: list[Found], params: LabelParams, detections: bool = True) -> Labels:
    """What a round is trained on.

    Args:
        marked: landmarks of the images `rows` in each flip, in cells.
        detections: whether detections are labels.
    """
    parts = []
    for view, one in zip(source.views.flips, marked, strict=True):
        detected = np.isfinite(one.score) & detections
        if params.max_distance is not None:
            gap = np.linalg.norm(one.xy - one.dense_xy, axis=2)
            detected &= np.nan_to_num(gap, nan=np.inf) <= params.max_distance
        sure = np.zeros_like(detected)
        if params.dense is not None:
            sure = one.dense_score >= np.quantile(one.dense_score, params.dense, axis=0)
        image, slot = np.nonzero(detected | sure)
        taken = detected[image, slot]
        cells = np.where(taken[:, None], one.xy[image, slot], one.dense_xy[image, slot])
        score = np.where(taken, one.score[image, slot], one.dense_score[image, slot])
        xy = source.to_image(rows[image], cells[:, None], view)[:, 0]
        parts.append((rows[image], np.full(len(image), view.flipped), slot, xy, score, taken))
    image, flipped, slot, xy, score, detected = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Labels(image, flipped, slot, xy, score, detected, marked[0].xy.shape[1])


def of_pool(points: Pool, label: NDArray[np.int64], centroids: NDArray[np.float32]) -> Labels:
    """Detections and the label (M,) of each as what a round is trained on."""
    x = points.descriptor
    score = np.concatenate([cosine(x[piece], centroids[label[piece]]) for piece in pieces(len(label))])
    detected = np.ones(len(label), dtype=np.bool_)
    return Labels(points.image, points.flipped, label, points.xy, score, detected, len(centroids))


def mirrored(labels: Labels, turns: NDArray[np.int64]) -> Labels:
    """The labels of the images as they are, and for their mirror images the same places under other numbers.

    Args:
        turns: (K,) what each landmark turns into. Of two that turn into one, the more similar is kept.
    """
    plain = np.flatnonzero(~labels.flipped)
    turned = turns[labels.label[plain]]
    kept = match.exemplars(labels.image[plain], turned, -labels.score[plain])
    at = np.concatenate([plain, plain[kept]])
    flipped = np.arange(len(at)) >= len(plain)
    label = np.concatenate([labels.label[plain], turned[kept]])
    image, xy, score, detected = (column[at] for column in (labels.image, labels.xy, labels.score, labels.detected))
    return Labels(image, flipped, label, xy, score, detected, labels.count)


def table(labels: Labels, rows: Rows, flipped: bool, count: int) -> NDArray[np.float32]:
    """Labels of one flip as (n, K, 2) image pixels, NaN where there is none, for the images `rows` (n,), sorted."""
    xy = np.full((len(rows), count, 2), np.nan, dtype=np.float32)
    mine = (labels.flipped == flipped) & np.isin(labels.image, rows)
    xy[np.searchsorted(rows, labels.image[mine]), labels.label[mine]] = labels.xy[mine]
    return xy


# --- health ---


def health(
    source: Source, rows: Rows, marked: list[Found], labels: Labels, previous: Labels | None
) -> dict[str, float]:
    """Figures of a round (docs/artifacts.md): detections and labels an image, and how many labels moved.

    Args:
        previous: labels of the round before.
    """
    points = [one.points for one in marked if one.points is not None]
    out = census(np.concatenate(points), labels)
    if previous is not None and len(previous.image) and len(labels.image):
        count = max(labels.count, previous.count)
        moved = np.concatenate([_gap(source, rows, view, labels, previous, count) for view in source.views.flips])
        out["label_change"] = float((moved > MOVED).mean()) if len(moved) else 1.0
    return out


def census(points: NDArray[np.int64], labels: Labels) -> dict[str, float]:
    """Detections and labels an image, given the detections of each image and flip."""
    return {
        "detections": float(points.mean()),
        "without_detection": float((points == 0).mean()),
        "labels": len(labels.image) / points.size,
        "labels_detected": float(labels.detected.mean()) if len(labels.image) else 0.0,
    }


def _gap(source: Source, rows: Rows, view: View, labels: Labels, previous: Labels, count: int) -> NDArray[np.float32]:
    """Distances in cells between the labels that an image has in both rounds."""
    now, then = (source.to_cells(rows, table(each, rows, view.flipped, count), view) for each in (labels, previous))
    gap = np.linalg.norm(now - then, axis=2)
    return gap[np.isfinite(gap)]
