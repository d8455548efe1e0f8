"""Pose proxy, first step of D-ULD++ (CVPR 2024, section 3.3.1): from the heat map alone, a code must tell the pose.

Labels are those of a round of D-ULD. Beside the detector's squared error, a variational autoencoder rebuilds the map of
the labels from the heat map, and the detector gets its gradient. Descriptors rest, so landmarks stay what they are.
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
from uld.cluster.quality import quality
from uld.landmarks import label
from uld.landmarks.detect import DetectParams
from uld.landmarks.recentre import hold, means_at
from uld.methods.base import Discovery, Found, Marked, Method, Source, Training
from uld.models import Head
from uld.models.pose import PoseParams
from uld.training import proxy
from uld.training.proxy import ElboParams


@dataclass(frozen=True, config=CLOSED)
class PoseProxyParams:
    """Params of the pose proxy."""

    images: Annotated[int, Field(ge=1)]  # held in memory, at most
    detect: DetectParams
    join: Annotated[float, Field(gt=0)] | None  # as in D-ULD
    fill: Annotated[float, Field(ge=0, le=1)] | None  # as in D-ULD
    pose: PoseParams
    train: ElboParams


class PoseProxy(Method):
    """A landmark is a cluster of detected points, of an earlier round."""

    Params = PoseProxyParams

    def __init__(self, params: PoseProxyParams) -> None:
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
        """The landmarks of the last round, as they look now.

        Raises:
            ULDError: the model has been through no round, or its last one had another number of landmarks.
        """
        if previous is None or previous.label.max(initial=-1) + 1 != count:
            raise ULDError(f"the pose proxy goes on with the {count} landmarks of a round: begin at one that has them.")
        chosen = np.sort(rng.permutation(rows)[: self.params.images])
        centroids = means_at([hold(source, chosen, view) for view in label.hands(source)], source, previous, count)
        points = label.pool(source, rows, self.params.detect)
        figures = quality(points.descriptor, kmeans.of(points.descriptor, centroids), rng)
        return Discovery(label.picture(points, centroids, rng), figures)

    # --- label ---

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """As in D-ULD."""
        p = self.params
        marked = [label.mark(source, rows, view, landmarks.centroids, p.detect) for view in label.hands(source)]
        labels = label.to_labels(source, marked, p.join, p.fill)
        return Marked(labels, label.health(source, marked, labels, previous))

    # --- train ---

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """Detector: squared error, and the evidence lower bound of the labels' map given the heat map."""
        return proxy.by_elbo(head, training, self.params.train, self.params.pose)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """As in D-ULD."""
        one = label.mark(source, rows, view, landmarks.centroids, self.params.detect)
        return Found(one.xy, one.score, one.dense_xy, one.dense_score)

    def match(
        self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0
    ) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        return label.match(source, rows, view, landmarks.centroids, self.params.detect)
