"""Mallis' chapter 4, second stage: a heat map a landmark, taught with points that are aligned to one template.

The first round begins at the first stage, whose one heat map fires at any point. The template is what that detects on
one image; Coherent Point Drift moves it onto the points of every other one, and the nearest points are the landmarks
(Mallis, thesis, 2023, section 4.2.4). Later rounds are taught with what the round before finds.
"""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found, joined
from uld.artifacts.landmarks import Landmarks
from uld.base import progress
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import channels, label, point_sets, template
from uld.landmarks.detect import PeakParams
from uld.landmarks.distil import DistilParams
from uld.landmarks.point_sets import PointSets
from uld.landmarks.template import TemplateParams
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import detectors
from uld.training.detectors import DetectorsParams
from uld.training.fresh import begun_anew
from uld.training.labelled import trainable

TEMPLATE = "template"  # name of the template among the labels' own arrays, with which it goes to later rounds


@dataclass(frozen=True, config=CLOSED)
class MallisCh4DetectorParams:
    """How the second stage aligns, labels and finds."""

    detect: PeakParams  # points of the first stage's heat map
    distil: DistilParams | None  # warps over which that heat map is averaged; null: none
    template: TemplateParams
    # labels of mirror images: found there as in any image, or those of the image as the template's mirror image has
    # them; null: training sees no mirror images
    mirror: Literal["found", "template"] | None
    threshold: Annotated[float, Field(ge=0, le=1)]  # heat below which a landmark is missing; 0: never


@dataclass(frozen=True, config=CLOSED)
class MallisCh4DetectorTrainParams(DetectorsParams):
    """Training of a round."""

    fresh: bool  # whether the round begins with weights drawn anew, as published; else with those of its start


class MallisCh4Detector(Method):
    """A landmark is a point of the template."""

    Cluster = MallisCh4DetectorParams
    Train = MallisCh4DetectorTrainParams
    fewest = 3  # points that determine an affine map
    params: MallisCh4DetectorParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Choose the template; of a model with K heat maps, describe what each of them finds."""
        if task.source.model.channels > 1:
            found = channels.discovery(task, average=False)
            kept = None if task.previous is None else task.previous.own.get(TEMPLATE)
            return replace(found, landmarks=template.with_template(found.landmarks, kept))
        points = self._points(task.source, task.rows, task.source.views.plain)
        return template.discovery(task, *template.choose(points, task.count, self.params.template.image))

    def _points(self, source: Source, rows: Rows, view: View) -> PointSets:
        return point_sets.detections(source, rows, view, self.params.detect, self.params.distil)

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """The points of each image that fit the template; after the first round, what each heat map finds."""
        source, p = task.source, self.params
        views = source.views.flips if p.mirror == "found" else [source.views.plain]
        if source.model.channels > 1:
            sets = points = [self._found(task, landmarks, view) for view in views]
            figures: dict[str, float] = {}
        else:
            points = [self._points(source, task.rows, view) for view in views]
            sets, figures = template.place(points, landmarks.known_template(), p.template)
        labels = point_sets.to_labels(source, sets)
        figures |= label.census(np.concatenate([one.counts for one in points]), labels)
        if p.mirror == "template" and len(source.views.flips) > 1:
            labels = label.mirrored(labels, template.mirror_map(landmarks.known_template()))
        own = {} if landmarks.template is None else {TEMPLATE: landmarks.template}
        return Labelled(replace(labels, own=own), figures)

    def _found(self, task: Task, landmarks: Landmarks, view: View) -> PointSets:
        batches = progress.batches("marking", task.rows)
        found = joined([self.find(task.source, landmarks, rows, view) for rows in batches])
        return point_sets.of_found(task.rows, view, found)

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: MallisCh4DetectorTrainParams) -> tuple[Model, pd.DataFrame]:
        """Each channel learns the Gaussian of its landmark, where there is a label."""
        headed, count = trainable(model, training, several=True), training.labels.count
        if params.fresh:
            headed = begun_anew(headed, count, training, params.steps, params.optimiser)
        kept = np.arange(count) if headed.channels == count else None
        return detectors.train(headed, training, params, kept)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The highest cell of each heat map; a landmark is missing where that is below the threshold."""
        heat, count = source.maps(rows, view).heat, len(landmarks.centroids)
        return channels.find(heat, source.inside(rows, view), count, self.params.threshold)
