"""Pseudo-labels: where each landmark is in each training image, and in its mirror image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base import runtime
from uld.base.errors import ULDError
from uld.cluster import kmeans
from uld.cluster.spool import Spool, Table, pieces, take
from uld.geometry import views
from uld.geometry.frames import Rows
from uld.landmarks import assign
from uld.landmarks.detect import DetectParams, PeakParams, Points, detect
from uld.landmarks.summary import summarise
from uld.methods.base import Source


def hands(source: Source) -> list[int]:
    """The untouched view and, if the bank has it, the pure mirror: a mirrored face is one more face.

    A point of the mirror image gets the landmark of what it looks like there: a left eye becomes a right one.
    """
    return [0, *views.mirror(source.views)]


@dataclass(frozen=True)
class Pool:
    """M detections, sorted by view and image.

    image (M,) row of boxes.csv; view (M,) of the bank; xy (M, 2) in image pixels; descriptor (M, D) of unit length, on
    disk: of all that is kept of an image they alone would fill the memory.
    """

    image: Rows
    view: NDArray[np.int64]
    xy: NDArray[np.float32]
    descriptor: Table

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> "Pool":
        """Some of them."""
        return Pool(self.image[index], self.view[index], self.xy[index], take(self.descriptor, index))

    def per_image(self, source: Source, rows: Rows) -> NDArray[np.int64]:
        """How many (V, n) each of the images `rows` (n,), sorted, has in each of its V hands."""
        return np.stack(
            [
                np.bincount(np.searchsorted(rows, self.image[self.view == view]), minlength=len(rows))
                for view in hands(source)
            ]
        )


def pool(source: Source, rows: Rows, params: PeakParams) -> Pool:
    """Detections in the images `rows`, each hand on its own; of several heat maps the highest counts.

    Raises:
        ULDError: there are none.
    """
    parts, found = [], Spool()
    for view in hands(source):
        for batch in runtime.batches(rows):
            descriptors, heat = source.maps(batch, view)
            points = detect(descriptors, heat.amax(1), source.inside(batch, view), params)
            image = batch[points.image]
            xy = source.to_image(image, points.xy[:, None], view)[:, 0]
            parts.append((image, np.full(len(image), view), xy))
            found.append(points.descriptor)
    if not len(found):
        raise ULDError("no point is detected in any training image: lower steps.*.detect.threshold or raise least.")
    image, hand, xy = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pool(image, hand, xy, found)


def picture(points: Pool, centroids: NDArray[np.float32], rng: np.random.Generator) -> Landmarks:
    """What is kept of the clusters that centroids (K, D) make of points.

    Of the untouched view only: where a mirrored left eye was found, the photograph has a right one.
    """
    plain = points.take(points.view == 0)
    shown = kmeans.of(plain.descriptor, centroids)
    return summarise(plain.image, plain.xy, plain.descriptor, shown, rng)


def closest(points: Pool, centroids: NDArray[np.float32]) -> tuple[Pool, NDArray[np.int64]]:
    """The detections that are the nearest of their image and view to their nearest centroid (Mallis, chapter 6).

    Returns:
        The detections, and the label (P,) of each: no two of an image and view have the same.
    """
    own, distance = kmeans.nearest(points.descriptor, centroids)
    image = points.view * (points.image.max(initial=0) + 1) + points.image
    best = assign.exemplars(image, own, distance)
    return points.take(best), own[best]


@dataclass(frozen=True)
class Marks:
    """Landmarks of n images in one view, in cells: dense matches, and exemplar detections, NaN where there is none.

    rows (n,); dense_xy, xy (n, K, 2); dense_score, score (n, K), cosine to the centroid; points (n,) detections.
    """

    rows: Rows
    view: int
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    points: NDArray[np.int64]


def mark(source: Source, rows: Rows, view: int, centroids: NDArray[np.float32], params: DetectParams) -> Marks:
    """Dense matches and exemplar detections in the images `rows`."""
    parts = []
    for batch in runtime.batches(rows):
        maps = Maps(*source.maps(batch, view), source.inside(batch, view))
        parts.append(maps.mark(centroids, params))
    return Marks(rows, view, *(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Maps:
    """What there is to see in B images: descriptors (B, D, G, G), heat (B, C, G, G) and ROI (B, G, G)."""

    descriptors: torch.Tensor
    heat: torch.Tensor
    inside: torch.Tensor

    def take(self, index: NDArray[np.int64]) -> "Maps":
        """Some of the images."""
        at = torch.from_numpy(index).to(self.inside.device)
        return Maps(self.descriptors[at], self.heat[at], self.inside[at])

    def mark(self, centroids: NDArray[np.float32], params: DetectParams) -> tuple[NDArray[Any], ...]:
        """The columns of `Marks` from `dense_xy` on."""
        match = assign.dense(self.descriptors, self.inside, centroids, True, params.prior(self.heat))
        return match.best_xy, match.best_score, *self.detected(centroids, params)

    def mark_near(
        self, centroids: NDArray[np.float32], params: DetectParams, cost: torch.Tensor
    ) -> tuple[NDArray[Any], ...]:
        """The same, where it is known about where each landmark lies: `cost` (K, G, G) is taken off its similarities.

        So a landmark is looked for in all cells, not only in those that look like no other landmark.
        """
        match = assign.dense(self.descriptors, self.inside, centroids, True, params.prior(self.heat) - cost)
        return match.dense_xy, match.dense_score, *self.detected(centroids, params)

    def detected(self, centroids: NDArray[np.float32], params: DetectParams) -> tuple[NDArray[Any], ...]:
        """The columns of `Marks` from `xy` on."""
        points = detect(self.descriptors, self.heat.amax(1), self.inside, params)
        return *exemplars(points, centroids, len(self.inside)), np.bincount(points.image, minlength=len(self.inside))


def match(
    source: Source, rows: Rows, view: int, centroids: NDArray[np.float32], params: DetectParams
) -> NDArray[np.float32]:
    """Dense matches (B, K, 2) alone, in cells: `Marks.dense_xy`, without the detector where it does not count."""
    inside = source.inside(rows, view)
    if not params.heat:
        return assign.dense(source.describe(rows, view), inside, centroids, refine=True).best_xy
    descriptors, heat = source.maps(rows, view)
    return assign.dense(descriptors, inside, centroids, True, params.prior(heat)).best_xy


def exemplars(
    points: Points, centroids: NDArray[np.float32], images: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each image and centroid the nearest of the points that are nearer to it than to other centroids.

    Returns:
        xy (images, K, 2) in cells and cosine (images, K) to the centroid, NaN where a centroid won no point.
    """
    xy = np.full((images, len(centroids), 2), np.nan, dtype=np.float32)
    score = np.full((images, len(centroids)), np.nan, dtype=np.float32)
    if len(points.image):
        label, distance = kmeans.nearest(points.descriptor, centroids)
        best = assign.exemplars(points.image, label, distance)
        place = points.image[best], label[best]
        xy[place] = points.xy[best]
        score[place] = cosine(points.descriptor[best], centroids[label[best]])
    return xy, score


def cosine(x: NDArray[np.float32], centroid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine (P,) of descriptors (P, D) of unit length to a centroid each."""
    return np.asarray((x * centroid).sum(1) / np.maximum(np.linalg.norm(centroid, axis=1), 1e-12))


def to_labels(source: Source, marked: list[Marks], join: float | None, fill: float | None) -> Labels:
    """What a round is trained on.

    Args:
        marked: one entry a hand.
        join: cells; an exemplar detection farther from the dense match of its landmark is no label. None: all are.
        fill: where no detection is a label the dense match is, but for this share of each landmark's worst. None: none.
    """
    parts = []
    for one in marked:
        detected = np.isfinite(one.score)
        if join is not None:
            detected &= np.nan_to_num(np.linalg.norm(one.xy - one.dense_xy, axis=2), nan=np.inf) <= join
        sure = np.zeros_like(detected)
        if fill is not None:
            sure = one.dense_score >= np.quantile(one.dense_score, fill, axis=0)
        image, slot = np.nonzero(detected | sure)
        taken = detected[image, slot]
        cells = np.where(taken[:, None], one.xy[image, slot], one.dense_xy[image, slot])
        score = np.where(taken, one.score[image, slot], one.dense_score[image, slot])
        xy = source.to_image(one.rows[image], cells[:, None], one.view)[:, 0]
        parts.append((one.rows[image], np.full(len(image), one.view), slot, xy, score, taken))
    return Labels(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def of_pool(points: Pool, label: NDArray[np.int64], centroids: NDArray[np.float32]) -> Labels:
    """Detections and the label (M,) of each as what a round is trained on."""
    x = points.descriptor
    score = np.concatenate([cosine(x[piece], centroids[label[piece]]) for piece in pieces(len(label))])
    return Labels(points.image, points.view, label, points.xy, score, np.ones(len(label), dtype=np.bool_))


def table(labels: Labels, rows: Rows, view: int, count: int) -> NDArray[np.float32]:
    """Labels of one view as (n, K, 2) image pixels, NaN where there is none, for the images `rows` (n,), sorted."""
    xy = np.full((len(rows), count, 2), np.nan, dtype=np.float32)
    mine = (labels.view == view) & np.isin(labels.image, rows)
    xy[np.searchsorted(rows, labels.image[mine]), labels.label[mine]] = labels.xy[mine]
    return xy


def health(source: Source, marked: list[Marks], labels: Labels, previous: Labels | None) -> dict[str, float]:
    """Figures of a round (docs/artifacts.md): detections and labels an image, and how many labels moved.

    Args:
        previous: labels of the round before. A label has changed if it moved by more than two cells.
    """
    out = census(np.concatenate([one.points for one in marked]), labels)
    if previous is not None and len(previous.image) and len(labels.image):
        count = int(max(labels.label.max(), previous.label.max())) + 1
        gaps = [_gap(source, one, labels, previous, count) for one in marked]
        moved = np.concatenate(gaps)
        out["label_change"] = float((moved > 2).mean()) if len(moved) else 1.0
    return out


def census(points: NDArray[np.int64], labels: Labels) -> dict[str, float]:
    """Detections and labels an image, given the detections of each image and hand."""
    return {
        "detections": float(points.mean()),
        "without_detection": float((points == 0).mean()),
        "labels": len(labels.image) / points.size,
        "labels_detected": float(labels.detected.mean()) if len(labels.image) else 0.0,
    }


def _gap(source: Source, one: Marks, labels: Labels, previous: Labels, count: int) -> NDArray[np.float32]:
    """Distances in cells between the labels that an image has in both rounds."""
    now, then = (
        source.to_cells(one.rows, table(each, one.rows, one.view, count), one.view) for each in (labels, previous)
    )
    gap = np.linalg.norm(now - then, axis=2)
    return gap[np.isfinite(gap)]
