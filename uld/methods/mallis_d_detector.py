"""Mallis (D), second stage: a heat map a landmark, taught with the points of its cluster (Mallis, thesis, chapter 6).

A round starts from the first stage, whose one heat map fires at any point. It gives each of K clusters of these points
a channel of its own, which then finds the landmark in every image, also where the first stage saw no point.
"""

from typing import Annotated, Literal

import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import channels, clusters, label
from uld.landmarks.clusters import ClustersParams
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import LabelParams
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import detectors
from uld.training.detectors import DetectorsParams


@dataclass(frozen=True, config=CLOSED)
class MallisDDetectorParams(ClustersParams):
    """How the second stage clusters, labels and finds; the recipe clusters and labels detections and nothing else."""

    detect: DetectParams  # of the first stage's heat map
    label: LabelParams
    mirror: Literal["found", "majority"]  # labels of mirror images: found there, or those of the image by the majority
    average: bool  # whether heat is the mean over an image and its mirror image
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
            return channels.discovery(task, self.params.average)
        return clusters.discover(task, self.params, self.params.detect, None)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """In every image and its mirror image the detection of each cluster that is nearest to its centroid."""
        source, rows, p = task.source, task.rows, self.params
        views = source.views.flips
        marked = [label.mark(source, rows, view, landmarks.centroids, p.detect) for view in views]
        labels = label.to_labels(source, rows, marked, p.label)
        figures = label.health(source, rows, marked, labels, None)
        for view in views[1:]:
            votes = channels.mirror_votes(source, labels, rows, view, landmarks.centroids)
            figures["flip_agreement"] = float(votes.max(1).sum() / max(1, votes.sum()))
            if p.mirror == "majority":
                labels = label.mirrored(labels, votes.argmax(1))
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
        if self.params.average:
            heat = channels.averaged(source, rows, view, heat, landmarks.known_mirror())
        return channels.find(heat, source.inside(rows, view), len(landmarks.centroids), self.params.threshold)
