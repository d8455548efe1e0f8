"""What the first stage of chapter 5 clusters (Mallis, thesis, 2023, section 5.2.1): detections and remembered points.

The detector of a round learns from the points of that round and of the one before: points of the last labels stay
beside the new detections, until the clustering throws them out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.artifacts.labels import Labels
from uld.base import progress
from uld.base.errors import ULDError
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.cluster.spool import Spool
from uld.geometry import sampling
from uld.geometry.frames import Rows
from uld.landmarks.channels import of_labels
from uld.landmarks.detect import PeakParams, Points
from uld.landmarks.label import Pool
from uld.landmarks.seen import Seen, look
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Task
from uld.sources.source import Source
from uld.sources.views import View


def pooled(source: Source, view: View, batches: Iterator[tuple[Rows, Points]]) -> Pool:
    """Points of a view that come batch by batch, rows (b,) rising, each with its points in cells."""
    parts, looks = [(np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.float32))], Spool()
    for rows, points in batches:
        image = rows[points.image]
        parts.append((image, source.to_image(image, points.xy[:, None], view)[:, 0]))
        if len(image):
            looks.append(points.descriptor)
    image, xy = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Pool(image, np.full(len(image), view.flipped), xy, looks)


class Memory:
    """Labels of an earlier round in one flip, as the model of now sees their places."""

    def __init__(self, labels: Labels, flipped: bool) -> None:
        """Of the points that were labelled in this flip."""
        mine = labels.flipped == flipped
        self._image, self._xy, self._score = labels.image[mine], labels.xy[mine], labels.score[mine]
        self._label, self._count = labels.label[mine], labels.count
        self._sums, self._seen = np.zeros((labels.count, 0)), np.zeros(labels.count)

    def recall(self, source: Source, seen: Seen) -> tuple[Points, NDArray[np.int64]]:
        """The labelled points of a batch, with the descriptors that they have now, and their labels (P,)."""
        some = np.arange(*np.searchsorted(self._image, [seen.rows[0], seen.rows[-1] + 1]))
        some = some[np.isin(self._image[some], seen.rows)]
        image = np.searchsorted(seen.rows, self._image[some])
        xy = source.to_cells(self._image[some], self._xy[some][:, None], seen.view)[:, 0]
        index, at = (torch.from_numpy(one).to(seen.descriptors.device) for one in (image, xy))
        looks = F.normalize(sampling.sample_each(seen.descriptors, index, at), dim=1).cpu().numpy()
        self._remember(self._label[some], looks)
        return Points(image, xy, self._score[some], looks), self._label[some]

    def _remember(self, label: NDArray[np.int64], looks: NDArray[np.float32]) -> None:
        if not self._sums.size:
            self._sums = np.zeros((self._count, looks.shape[1]))
        np.add.at(self._sums, label, looks)
        self._seen += np.bincount(label, minlength=self._count)

    def means(self) -> NDArray[np.float32]:
        """The mean descriptor (K, D) of each landmark over all points recalled so far; 0 where there was none."""
        return (self._sums / np.maximum(self._seen, 1)[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Gathered:
    """Points of the training images, and the mean descriptors (M, D) of the last round's labels, None without any."""

    points: Pool
    means: NDArray[np.float32] | None


def gather(
    source: Source, rows: Rows, view: View, params: PeakParams, previous: Labels | None, union: float | None
) -> Gathered:
    """The model's detections in a view, united with the points of the last round's labels.

    Args:
        rows: (n,), rising. previous: labels of the last round; None: there was none.
        union: cells around an old point within which a detection is that point; None: old points are not taken.

    Raises:
        ULDError: there are none.
    """
    memory = None if previous is None else Memory(previous, view.flipped)

    def batches() -> Iterator[tuple[Rows, Points]]:
        for batch in progress.batches("detecting", rows):
            seen = look(source, batch, view)
            points = seen.points(params)
            if memory is not None:
                old, _ = memory.recall(source, seen)
                points = points if union is None else united(points, old, union)
            yield batch, points

    points = pooled(source, view, batches())
    if not len(points.image):
        raise ULDError(
            "no point is detected in any training image: lower methods.*.cluster.detect.threshold or raise min_points."
        )
    return Gathered(points, None if memory is None else memory.means())


def united(points: Points, old: Points, radius: float) -> Points:
    """All old points of a batch, and of the others those that are farther than `radius` cells from any old one."""
    images = int(max(points.image.max(initial=-1), old.image.max(initial=-1))) + 1
    place = np.arange(len(old.image)) - np.searchsorted(old.image, old.image)
    table = np.full((images, int(place.max(initial=-1)) + 1, 2), np.nan, dtype=np.float32)
    table[old.image, place] = old.xy
    gap = np.linalg.norm(points.xy[:, None] - table[points.image], axis=2)
    new = ~(gap <= radius).any(1)  # an old point that is not there is NaN, and near nothing
    parts = (old.image, points.image[new]), (old.xy, points.xy[new]), (old.score, points.score[new])
    image, xy, score = (np.concatenate(part) for part in parts)
    looks = np.concatenate([old.descriptor, points.descriptor[new]])
    order = np.argsort(image, kind="stable")
    return Points(image[order], xy[order], score[order], looks[order])


def beside(source: Source, rows: Rows, view: View, params: PeakParams) -> Pool:
    """The model's detections beside the object boxes."""

    def batches() -> Iterator[tuple[Rows, Points]]:
        for batch in progress.batches("detecting beside", rows):
            seen = look(source, batch, view)
            yield batch, replace(seen, inside=~seen.inside).points(params)

    return pooled(source, view, batches())


def foreground(
    points: Pool, besides: Pool, count: int, background: int, rng: np.random.Generator, params: KMeansParams
) -> NDArray[np.bool_]:
    """Which points (N,) of the objects look more like a cluster of such points than like one of those beside.

    Where the camera stands still, what lies behind the object is seen beside it in other images.

    Args:
        points, besides: in the object boxes, and beside them. count, background: clusters of either.

    Raises:
        ULDError: there are fewer points beside the objects than clusters of them.
    """
    if len(besides.image) < background:
        raise ULDError(
            f"{len(besides.image)} points lie beside the objects, too few for {background} clusters: lower "
            "methods.*.cluster.background, or let it be null."
        )
    objects = kmeans.fitted(points.descriptor, count, rng, params).centroids
    behind = kmeans.fitted(besides.descriptor, background, rng, params).centroids
    nearest, _ = kmeans.nearest(points.descriptor, np.concatenate([objects, behind]))
    return nearest < count


def discovery(task: Task, labels: Labels) -> Discovery:
    """Labels of an earlier round as landmarks, which look as the model sees their places now."""
    source, view = task.source, task.source.views.plain
    memory, own = Memory(labels, view.flipped), []

    def batches() -> Iterator[tuple[Rows, Points]]:
        for batch in progress.batches("describing labels", task.rows):
            points, label = memory.recall(source, look(source, batch, view))
            own.append(label)
            yield batch, points

    points = pooled(source, view, batches())
    clusters = of_labels(points.descriptor, np.concatenate(own), memory.means())
    landmarks = summarise(points.image, points.xy, points.descriptor, clusters, task.rng)
    return Discovery(landmarks, quality(points.descriptor, clusters, task.rng))
