"""Pose proxy, first step of D-ULD++ (CVPR 2024, section 3.3.1): from the heat map alone, a code must tell the pose.

Labels are those of a round of D-ULD. Beside the detector's squared error, a variational autoencoder rebuilds the map of
the labels from the heat map, and the detector gets its gradient. Descriptors are frozen, so landmarks stay what they
are.
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
from uld.cluster.quality import quality
from uld.geometry.frames import Rows
from uld.landmarks import label
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import LabelParams
from uld.landmarks.recentre import means_at
from uld.landmarks.seen import keep, look, search
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import elbo
from uld.training.elbo import ProxyParams


@dataclass(frozen=True, config=CLOSED)
class PoseProxyParams:
    """How the pose proxy labels and finds."""

    images: Annotated[int, Field(ge=1)]  # held in memory, at most
    detect: DetectParams
    label: LabelParams


class PoseProxy(Method):
    """A landmark is a cluster of detected points, of an earlier round."""

    Cluster = PoseProxyParams
    Train = ProxyParams
    params: PoseProxyParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """The landmarks of the last round, as they look now.

        Raises:
            ULDError: the model has been through no round, or its last one had another number of landmarks.
        """
        source, count = task.source, task.count
        if task.previous is None or task.previous.count != count:
            raise ULDError(f"the pose proxy goes on with the {count} landmarks of a round: begin at one that has them.")
        chosen = np.sort(task.rng.permutation(task.rows)[: self.params.images])
        kept = [keep(source, chosen, view, heat=False) for view in source.views.flips]
        centroids = means_at(kept, source, task.previous, count)
        points = label.detected(task, self.params.detect)
        figures = quality(points.descriptor, kmeans.of(points.descriptor, centroids), task.rng)
        return Discovery(label.picture(points, centroids, task.rng), figures)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """As in D-ULD."""
        source, p = task.source, self.params
        marked = [label.mark(source, task.rows, view, landmarks.centroids, p.detect) for view in source.views.flips]
        labels = label.to_labels(source, task.rows, marked, p.label)
        return Labelled(labels, label.health(source, task.rows, marked, labels, task.previous))

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: ProxyParams) -> tuple[Model, pd.DataFrame]:
        """Detector: squared error, and the evidence lower bound of the labels' map given the heat map."""
        return elbo.train(model, training, params, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """As in D-ULD."""
        return search(look(source, rows, view), landmarks.centroids, self.params.detect)

    def match(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        return label.dense(source, rows, view, landmarks.centroids, self.params.detect)
