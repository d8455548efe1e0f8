"""D-ULD: rounds of clustering detected points and training on the clusters (D-ULD, CVPR 2024, section 3.2).

Each round marks the exemplars of K clusters in every training image and in its mirror image, and trains the detector
to fire there and the descriptors to agree there. What this file adds to the paper, each to be switched off by its
parameter: random pixels in place of detections in the first round (`pool`); more clusters than landmarks, of which the
most equivariant stay (`over_clustering`); centroids that move to their exemplars (`recentre`); labels near dense
matches only, and dense matches as labels where the detector is silent (`label`); dense matches that lean to the
detector's heat (`detect.heat_weight`). One has no parameter: later rounds begin at the clusters of the last one.
"""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.cluster.spool import Spool
from uld.geometry.frames import Rows
from uld.landmarks import label
from uld.landmarks.detect import DetectParams
from uld.landmarks.draw import DrawParams, describe, draw
from uld.landmarks.label import LabelParams, Pool
from uld.landmarks.recentre import equivariance_error, means_at, recentre
from uld.landmarks.seen import Seen, keep, look, search
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import self_training
from uld.training.self_training import SelfTrainingParams


@dataclass(frozen=True, config=CLOSED)
class DULDParams(DrawParams, KMeansParams):
    """How D-ULD clusters, labels and finds."""

    pool: Literal["detections", "pixels"]  # what the first round clusters; later ones go on from its clusters
    over_clustering: Annotated[int, Field(ge=1)]  # clusters a landmark; 1: as in the paper
    recentre: Annotated[int, Field(ge=0)]  # times that the first round's centroids move to their exemplars; 0: paper
    images: Annotated[int, Field(ge=1)]  # held in memory for both, at most
    detect: DetectParams
    label: LabelParams


class DULD(Method):
    """A landmark is a cluster of detected points."""

    Cluster = DULDParams
    Train = SelfTrainingParams
    params: DULDParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster points of the training images; landmarks of an earlier round keep their numbers."""
        points = self._pool(task)
        chosen = np.sort(task.rng.permutation(task.rows)[: self.params.images])
        kept = [keep(task.source, chosen, view) for view in task.source.views.flips]
        centroids = self._centroids(task, points, kept)
        off = equivariance_error(task.source, kept[0], centroids)
        steady = np.sort(np.argsort(off, kind="stable")[: task.count])
        clusters = kmeans.of(points.descriptor, centroids[steady])
        figures = quality(points.descriptor, clusters, task.rng)
        figures["equivariance_error"] = float(off[steady].mean())
        figures["centroid_norm"] = float(np.linalg.norm(clusters.centroids, axis=1).mean())
        return Discovery(label.picture(points, clusters.centroids, task.rng), figures)

    def _pool(self, task: Task) -> Pool:
        """Detections or random pixels of the training images and their mirror images."""
        source, p = task.source, self.params
        if p.pool == "detections" and source.detects:
            return label.detections(source, task.rows, p.detect)
        found, spool = [], Spool()
        for view in source.views.flips:
            positions = draw(task.rows, p, task.rng)
            cells, x = describe(source, positions, view)
            xy = source.to_image(positions.image, cells[:, None], view)[:, 0]
            found.append((positions.image, np.full(len(xy), view.flipped), xy))
            spool.append(x)
        image, flipped, xy = (np.concatenate(column) for column in zip(*found, strict=True))
        return Pool(image, flipped, xy, spool)

    def _centroids(self, task: Task, points: Pool, kept: list[Seen]) -> NDArray[np.float32]:
        """Centroids (n, D) of the last round's landmarks, or of n = K x `over_clustering` new clusters."""
        p, x = self.params, points.descriptor
        if task.previous is None or task.previous.count != task.count:
            many = kmeans.fitted(x, task.count * p.over_clustering, task.rng, p)
            return recentre(kept, many.centroids, p.recentre)
        centroids = means_at(kept, task.source, task.previous, task.count)
        # some of many clusters do not share out all points, so k-means would move them; a lost one needs some
        if p.over_clustering == 1 or not centroids.any(1).all():
            centroids = kmeans.fitted(x, task.count, task.rng, p, centroids).centroids
        return centroids

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """Exemplar detections, and dense matches where they are wanted, in every image and its mirror image.

        In the first round, if dense matches may stand in, they alone do: the detector has not met these landmarks yet.
        """
        source, p = task.source, self.params
        marked = [label.mark(source, task.rows, view, landmarks.centroids, p.detect) for view in source.views.flips]
        detections = task.previous is not None or p.label.dense is None
        labels = label.to_labels(source, task.rows, marked, p.label, detections)
        return Labelled(labels, label.health(source, task.rows, marked, labels, task.previous))

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: SelfTrainingParams) -> tuple[Model, pd.DataFrame]:
        """Detector: squared error against Gaussians. Descriptors: contrastive loss."""
        return self_training.train(model, training, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """Exemplar assignment of the detected points; beside it the dense match of every landmark."""
        return search(look(source, rows, view), landmarks.centroids, self.params.detect)

    def match(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        return label.dense(source, rows, view, landmarks.centroids, self.params.detect)
