"""Mallis' chapter 4, first stage: rounds of a detector of points on its own points (Mallis, thesis, 2023, chapter 4).

A generic detector names points in all training images, some of the object and some of anything. A model with one heat
map learns them, sees what is common to many images sooner than the rest, and names the points of the next round. No
point is told from another one, so there are no landmarks yet: the second stage, mallis_ch4_detector, makes them.
"""

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import label, point_sets
from uld.landmarks.detect import PeakParams
from uld.landmarks.distil import DistilParams
from uld.landmarks.generic import GenericParams, generic
from uld.landmarks.point_sets import PointSets
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import points
from uld.training.points import PointsParams


@dataclass(frozen=True, config=CLOSED)
class MallisCh4Params:
    """Which points a round learns."""

    # of the first round, which no other one has gone before; null: those that its start detects, as in later rounds
    points: GenericParams | None
    detect: PeakParams
    # warps over which the heat map is averaged before points are detected; null: none. Published from round 5 on: give
    # those rounds a line of `methods` of their own
    distil: DistilParams | None
    mirror: bool  # whether training also sees mirror images, with the same points


class MallisCh4(Method):
    """There is no landmark: a point is a point."""

    Cluster = MallisCh4Params
    Train = PointsParams
    params: MallisCh4Params

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """No landmark: K = 0, whatever was asked for."""
        return Discovery(Landmarks.none(), {})

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """All points of the training images: a label is the number of a point in its image, and says no more."""
        source, found = task.source, self._points(task)
        labels = point_sets.to_labels(source, [found])
        figures = label.census(found.counts, labels)
        if self.params.mirror and len(source.views.flips) > 1:
            labels = label.mirrored(labels, np.arange(labels.count))
        return Labelled(labels, figures)

    def _points(self, task: Task) -> PointSets:
        source, rows, view, p = task.source, task.rows, task.source.views.plain, self.params
        if p.points is not None and task.previous is None:
            named = generic(source, rows, view, p.points, task.rng)
            return point_sets.padded(rows, view, ((batch, one.image, one.xy, one.score) for batch, one in named))
        return point_sets.detections(source, rows, view, p.detect, p.distil)

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: PointsParams) -> tuple[Model, pd.DataFrame]:
        """Squared error of the one heat map against Gaussians, few steps of it; no loss of descriptors."""
        return points.train(model, training, params)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """Refuse: there is nothing to find.

        Raises:
            ULDError: always.
        """
        raise ULDError(
            "mallis_ch4 tells no point from another one and has no landmarks: let the row start from a round of "
            "mallis_ch4_detector, with that method."
        )
