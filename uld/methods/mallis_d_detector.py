"""Mallis (D), second stage: a heat map a landmark, taught with the points of its cluster (Mallis, thesis, chapter 6).

A round starts from the first stage, whose one heat map fires at any point. It gives each of K clusters of these points
a channel of its own, which then finds the landmark in every image, also where the first stage saw no point.
"""

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.geometry.frames import Rows
from uld.landmarks import channels, label
from uld.landmarks.detect import PeakParams
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import detectors
from uld.training.detectors import DetectorsParams


@dataclass(frozen=True, config=CLOSED)
class MallisDDetectorParams(KMeansParams):
    """How the second stage clusters, labels and finds."""

    detect: PeakParams  # of the first stage's heat map
    threshold: Annotated[float, Field(ge=0, le=1)]  # heat below which a landmark is missing; 0: never, as published


class MallisDDetector(Method):
    """A landmark is a heat map."""

    Cluster = MallisDDetectorParams
    Train = DetectorsParams
    params: MallisDDetectorParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster the detections of a model with one heat map; of a model with K, describe what each of them finds."""
        if task.source.model.channels > 1:
            return channels.discovery(task)
        points = label.detections(task.source, task.rows, self.params.detect)
        clusters = kmeans.fitted(points.descriptor, task.count, task.rng, self.params)
        figures = quality(points.descriptor, clusters, task.rng)
        return Discovery(label.picture(points, clusters.centroids, task.rng), figures)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """In every image and its mirror image the detection of each cluster that is nearest to its centroid."""
        source, rows = task.source, task.rows
        points = label.detections(source, rows, self.params.detect)
        closest, own = label.closest(points, landmarks.centroids)
        labels = label.of_pool(closest, own, landmarks.centroids)
        figures = label.census(points.per_image(source, rows), labels)
        for view in source.views.flips[1:]:
            figures["flip_agreement"] = channels.flip_agreement(source, labels, rows, view, landmarks.centroids)
        return Labelled(labels, figures)

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: DetectorsParams) -> tuple[Model, pd.DataFrame]:
        """Cross entropy of each channel with the Gaussian of its landmark, where there is a label."""
        return detectors.train(model, training, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The highest cell of each heat map; a landmark is missing where that is below the threshold."""
        heat = source.maps(rows, view).heat
        at, height = channels.tops(heat, source.inside(rows, view), len(landmarks.centroids))
        xy, score = at.cpu().numpy(), height.cpu().numpy()
        missing = score < self.params.threshold
        seen_xy, seen = np.where(missing[..., None], np.nan, xy), np.where(missing, np.nan, score)
        return Found(seen_xy.astype(np.float32), seen.astype(np.float32), xy, score)
