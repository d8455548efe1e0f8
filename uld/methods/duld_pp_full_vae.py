"""Two-stage clustering with the full autoencoder: the row of the ablation between pose proxy and D-ULD++ (CVPR 2024).

As D-ULD++, but the pose part goes on to learn as in the pose proxy.
"""

from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.landmarks import label, posed
from uld.landmarks.detect import DetectParams
from uld.landmarks.posed import TwoStageParams
from uld.methods.base import Discovery, Found, Marked, Method, Source, Training
from uld.models import Head
from uld.training import proxy
from uld.training.proxy import ElboParams


@dataclass(frozen=True, config=CLOSED)
class DULDPPFullVAEParams:
    """Params of the ablation."""

    cluster: TwoStageParams
    detect: DetectParams
    join: Annotated[float, Field(gt=0)] | None  # as in D-ULD
    fill: Annotated[float, Field(ge=0, le=1)] | None  # as in D-ULD
    train: ElboParams


class DULDPPFullVAE(Method):
    """A landmark is a cluster of detected points in each pose."""

    Params = DULDPPFullVAEParams

    def __init__(self, params: DULDPPFullVAEParams) -> None:
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
        """Poses, and how the landmarks of the last round look in each."""
        return posed.discover(source, rows, count, rng, previous, self.params.cluster, self.params.detect)

    # --- label ---

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """Each image gets a pose, and the landmarks as they look in it."""
        p = self.params
        labels, marked = posed.to_labels(source, rows, landmarks, p.detect, p.cluster.place, p.join, p.fill)
        return Marked(labels, label.health(source, marked, labels, previous))

    # --- train ---

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """Detector: squared error, and the evidence lower bound of the labels' map given the heat map."""
        return proxy.by_elbo(head, training, self.params.train)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """The pose of each image, and the landmarks as they look in it."""
        return posed.find(source, landmarks, rows, view, self.params.detect, self.params.cluster.place)
