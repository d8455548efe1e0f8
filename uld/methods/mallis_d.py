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

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import Clusters
from uld.cluster.quality import quality
from uld.cluster.spool import Table
from uld.landmarks import label
from uld.landmarks.detect import DetectParams
from uld.methods.base import Discovery, Found, Marked, Method, Source, Training
from uld.models import Head
from uld.training import self_training
from uld.training.self_training import TrainParams

FEWEST = 2  # labels in an image and in its mirror image, or the round does without it


@dataclass(frozen=True, config=CLOSED)
class MallisDParams:
    """Params of the first stage."""

    clusters: Annotated[int, Field(ge=1)]  # M, what a round teaches
    cap: Annotated[int, Field(ge=1)]  # points that k-means sees, at most
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    detect: DetectParams
    train: TrainParams


class MallisD(Method):
    """A landmark is a cluster of detected points."""

    Params = MallisDParams

    def __init__(self, params: MallisDParams) -> None:
        self.params = params

    # --- discover ---

    def discover(
        self,
        source: Source,
        rows: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Discovery:
        """Cluster the detections of the training images, anew in every round."""
        points = label.pool(source, rows, self.params.detect)
        clusters = self._fit(points.descriptor, count, rng)
        return Discovery(label.picture(points, clusters.centroids, rng), quality(points.descriptor, clusters, rng))

    def _fit(self, x: Table, k: int, rng: np.random.Generator) -> Clusters:
        p = self.params
        return kmeans.fit(x, k, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap)

    # --- label ---

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """One of M clusters for each detection that is the nearest of its image to one of the K landmarks.

        Raises:
            ULDError: there are fewer such detections than clusters.
        """
        points = label.pool(source, rows, self.params.detect)
        survivors, _ = label.closest(points, landmarks.centroids)
        if len(survivors.image) < self.params.clusters:
            raise ULDError(
                f"{len(survivors.image)} points are labelled, too few for {self.params.clusters} clusters: "
                f"lower steps.mallis_d.clusters, or raise steps.mallis_d.detect.least."
            )
        clusters = self._fit(survivors.descriptor, self.params.clusters, rng)
        kept, own = label.closest(survivors, clusters.centroids)
        enough = (kept.per_image(source, rows) >= FEWEST).all(0)
        taught = np.isin(kept.image, rows[enough])
        labels = label.of_pool(kept.take(taught), own[taught], clusters.centroids)
        figures = label.census(points.per_image(source, rows), labels)
        figures["survivors"] = len(survivors.image) / survivors.per_image(source, rows).size
        return Marked(labels, figures | {"left_out": float((~enough).mean())})

    # --- train ---

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """As in D-ULD, on the images that have labels."""
        return self_training.train(head, training, self.params.train, np.unique(training.labels.image))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """The nearest detection of each of the K clusters; beside it the dense match of every landmark."""
        one = label.mark(source, rows, view, landmarks.centroids, self.params.detect)
        return Found(one.xy, one.score, one.dense_xy, one.dense_score)

    def match(
        self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0
    ) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        return label.match(source, rows, view, landmarks.centroids, self.params.detect)
