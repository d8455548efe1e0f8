"""D-ULD: rounds of clustering detected points and training on the clusters (D-ULD, CVPR 2024, section 3.2).

Each round marks the exemplars of K clusters in every training image and in its mirror image, and trains the detector
to fire there and the descriptors to agree there. What goes beyond the paper, each to be switched off by its parameter:
the pool, over-clustering and recentring of `uld.landmarks.clusters`; labels near dense matches only, and dense matches
as labels where the detector is silent (`label`); dense matches that lean to the detector's heat (`detect.heat_weight`).
One has no parameter: later rounds begin at the clusters of the last one.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import clusters, label
from uld.landmarks.clusters import ClustersParams
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import LabelParams
from uld.landmarks.seen import look, search
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import self_training
from uld.training.self_training import SelfTrainingParams


@dataclass(frozen=True, config=CLOSED)
class DULDParams(ClustersParams):
    """How D-ULD clusters, labels and finds; `pool` is what the first round clusters."""

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
        return clusters.discover(task, self.params, self.params.detect, task.previous)

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
