"""D-ULD++ (CVPR 2024, section 3.3): landmarks by two-stage clustering, poses apart by a contrastive loss.

Rounds begin at one of the pose proxy. Images are clustered by the code of their heat map, descriptors within each pose;
the detector learns the labels, and its heat map a code that tells the poses apart (`loss: contrast`, equation 3). With
`loss: elbo` the pose part goes on to learn as in the pose proxy: the ablation's row with the full autoencoder.
"""

import pandas as pd
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import label, posed
from uld.landmarks.detect import DetectParams
from uld.landmarks.label import LabelParams
from uld.landmarks.posed import TwoStageParams
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import elbo, pose_contrast
from uld.training.elbo import ElboParams
from uld.training.pose_contrast import ContrastParams


@dataclass(frozen=True, config=CLOSED)
class DULDPPParams:
    """How D-ULD++ clusters, labels and finds."""

    poses: TwoStageParams
    detect: DetectParams
    label: LabelParams


class DULDPP(Method):
    """A landmark is a cluster of detected points in each pose."""

    Cluster = DULDPPParams
    Train = ContrastParams | ElboParams
    params: DULDPPParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Poses, and how the landmarks of the last round look in each."""
        return posed.discover(task, self.params.poses, self.params.detect)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """Each image and its mirror image gets a pose, and the landmarks as they look in it."""
        source, flips = task.source, task.source.views.flips
        marked = [self.find(source, landmarks, task.rows, view) for view in flips]
        labels = label.to_labels(source, task.rows, marked, self.params.label)
        health = label.health(source, task.rows, marked, labels, task.previous)
        return Labelled(posed.with_poses(labels, task.rows, marked, flips), health)

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: ContrastParams | ElboParams) -> tuple[Model, pd.DataFrame]:
        """Detector: squared error. Pose codes: contrastive loss over pose labels, or the evidence lower bound."""
        if params.loss == "contrast":
            return pose_contrast.train(model, training, params)
        return elbo.train(model, training, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The pose of each image, and the landmarks as they look in it."""
        poses = landmarks.known_poses()
        return posed.find(source, rows, view, poses, self.params.detect, self.params.poses.place)
