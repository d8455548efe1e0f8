"""Mallis (D), first stage: rounds of Mallis (thesis, chapter 6) on the features and heads of D-ULD.

Each round clusters the detected points twice. K clusters decide which points stay: in an image, of each cluster the
nearest one. These are clustered again, into M > K, and the finer clusters are what the round teaches: two views of a
pair agree where they show the same one. Nothing is carried over to the next round but the model.
"""

from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.geometry.frames import Rows
from uld.landmarks import clusters, label
from uld.landmarks.clusters import ClustersParams
from uld.landmarks.detect import DetectParams
from uld.landmarks.seen import look, search
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import self_training
from uld.training.self_training import SelfTrainingParams

FEWEST = 2  # labels in an image and in its mirror image, or the round does without it


@dataclass(frozen=True, config=CLOSED)
class MallisDParams(ClustersParams):
    """How the first stage clusters, labels and finds; the recipe clusters detections and nothing else."""

    clusters: Annotated[int, Field(ge=1)]  # M, what a round teaches
    detect: DetectParams


class MallisD(Method):
    """A landmark is a cluster of detected points."""

    Cluster = MallisDParams
    Train = SelfTrainingParams
    params: MallisDParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster points of the training images, anew in every round."""
        return clusters.discover(task, self.params, self.params.detect, None)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """One of M clusters for each detection that is the nearest of its image to one of the K landmarks.

        Raises:
            ULDError: there are fewer such detections than clusters.
        """
        source, rows, p = task.source, task.rows, self.params
        points = label.detected(task, p.detect)
        survivors, _ = label.closest(points, landmarks.centroids)
        if len(survivors.image) < p.clusters:
            raise ULDError(
                f"{len(survivors.image)} points are labelled, too few for {p.clusters} clusters: lower "
                "methods.mallis_d.cluster.clusters, or raise methods.mallis_d.cluster.detect.min_points."
            )
        finer = kmeans.fitted(survivors.descriptor, p.clusters, task.rng, p)
        closest, own = label.closest(survivors, finer.centroids)
        enough = (closest.per_image(source, rows) >= FEWEST).all(0)
        taught = np.isin(closest.image, rows[enough])
        labels = label.of_pool(closest.take(taught), own[taught], finer.centroids)
        figures = label.census(points.per_image(source, rows), labels)
        figures["survivors"] = len(survivors.image) / survivors.per_image(source, rows).size
        return Labelled(labels, figures | {"left_out": float((~enough).mean())})

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: SelfTrainingParams) -> tuple[Model, pd.DataFrame]:
        """As in D-ULD, on the images that have labels."""
        return self_training.train(model, training, params, np.unique(training.labels.image))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The nearest detection of each of the K clusters; beside it the dense match of every landmark."""
        return search(look(source, rows, view), landmarks.centroids, self.params.detect)

    def match(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        return label.dense(source, rows, view, landmarks.centroids, self.params.detect)
