"""Mallis, thesis, chapter 5, first stage (NeurIPS 2020): detector and descriptors learn from clusters of points.

The first round clusters what a generic detector finds, by its own descriptors. Later rounds cluster what the model
detects, and the points of the round before. In each image every cluster has one point at most. There is no K: each of M
clusters is a landmark, or one of several looks of it, and the second stage merges those.
"""

from typing import Annotated, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ParamsError, ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.geometry.frames import Rows
from uld.landmarks import gather, label
from uld.landmarks.assign import assign
from uld.landmarks.detect import DetectParams
from uld.landmarks.gather import Gathered
from uld.landmarks.generic import GenericParams, generic
from uld.landmarks.seen import look, search
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import cross_view
from uld.training.cross_view import CrossViewParams


@dataclass(frozen=True, config=CLOSED)
class MallisCh5Params(KMeansParams):
    """How the first stage clusters, labels and finds."""

    clusters: Annotated[int, Field(ge=1)]  # M; 100 of faces and 250 of bodies in the thesis
    # whose points and descriptors are clustered: a generic detector's, as in the first round; null: the model's own
    points: GenericParams | None
    detect: DetectParams  # of the model's heat map
    # cells around a point of the last labels within which a detection is that point; null: last labels are forgotten
    union: Annotated[float, Field(ge=0)] | None
    warm: bool  # whether clusters begin at those of the last labels: so says the thesis, the author's code does not
    # standard deviations above the mean of a cluster's squared distances from which on a point has no label; null: none
    far: Annotated[float, Field(ge=0)] | None
    # clusters of the points beside the objects, where the camera stands still: points of the objects that look more
    # like one of these are dropped; null: none
    background: Annotated[int, Field(ge=1)] | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """A generic detector does not know what the model has labelled."""
        if self.points is not None and (self.union is not None or self.warm):
            raise ValueError("union must be null and warm false where points are those of a generic detector")
        return self


class MallisCh5(Method):
    """A landmark is a cluster of points, of which an image has one at most."""

    Cluster = MallisCh5Params
    Train = CrossViewParams
    params: MallisCh5Params

    def __init__(self, params: MallisCh5Params) -> None:
        super().__init__(params)
        self._gathered: tuple[Task, Gathered] | None = None

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster points of the training images as they are; the landmarks are all M clusters.

        Raises:
            ParamsError: other than M landmarks are asked for. ULDError: there are fewer points than clusters.
        """
        p = self.params
        if task.count != p.clusters:
            raise ParamsError(
                f"{task.count} landmarks are asked for and methods.mallis_ch5.cluster.clusters is {p.clusters}: this "
                f"method finds as many landmarks as clusters. Say `landmarks: {p.clusters}` in its lines of rounds and "
                "rows."
            )
        found = self._points(task)
        points = found.points
        start = found.means if p.warm and found.means is not None and len(found.means) == p.clusters else None
        clusters = kmeans.fitted(points.descriptor, p.clusters, task.rng, p, start)
        landmarks = summarise(points.image, points.xy, points.descriptor, clusters, task.rng)
        return Discovery(landmarks, quality(points.descriptor, clusters, task.rng))

    def _points(self, task: Task) -> Gathered:
        """What is clustered; kept, for what is clustered is labelled, and a detector or k-means takes long."""
        if self._gathered is None or self._gathered[0] is not task:
            self._gathered = task, self._of_objects(task, self._gather(task))
        return self._gathered[1]

    def _gather(self, task: Task) -> Gathered:
        """Points in the object boxes."""
        source, view, p = task.source, task.source.views.plain, self.params
        if p.points is None:
            return gather.gather(source, task.rows, view, p.detect, task.previous, p.union)
        found = generic(source, task.rows, view, p.points, task.rng)
        return Gathered(gather.pooled(source, view, found), None)

    def _of_objects(self, task: Task, found: Gathered) -> Gathered:
        """Those of them that do not look like what lies beside the objects."""
        source, view, p = task.source, task.source.views.plain, self.params
        if p.background is None:
            return found
        if p.points is None:
            besides = gather.beside(source, task.rows, view, p.detect)
        else:
            besides = gather.pooled(source, view, generic(source, task.rows, view, p.points, task.rng, beside=True))
        kept = gather.foreground(found.points, besides, p.clusters, p.background, task.rng, p)
        return Gathered(found.points.take(kept), found.means)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """Of each image the points and clusters that go together best, but for points far from their cluster."""
        points, rows = self._points(task).points, task.rows
        index, own = assign(points, landmarks.centroids, self.params.far)
        labels = label.of_pool(points.take(index), own, landmarks.centroids)
        count = np.bincount(np.searchsorted(rows, points.image), minlength=len(rows))
        return Labelled(labels, label.census(count, labels) | {"assigned": len(index) / len(points.image)})

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: CrossViewParams) -> tuple[Model, pd.DataFrame]:
        """Detector: squared error against Gaussians. Descriptors: contrastive loss across the views of a pair."""
        return cross_view.train(model, training, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The nearest detection of each of the M clusters; beside it the dense match of every one.

        Raises:
            ULDError: the clusters are of a generic detector's descriptors.
        """
        if self.params.points is not None:
            raise ULDError(
                "these clusters are of a generic detector's descriptors, by which the model cannot find them: let the "
                "row have a line of methods whose cluster.points is null."
            )
        return search(look(source, rows, view), landmarks.centroids, self.params.detect)
