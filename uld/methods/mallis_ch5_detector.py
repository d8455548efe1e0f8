"""Mallis, thesis, chapter 5, second stage (NeurIPS 2020): a heat map a cluster, and clusters become landmarks.

The first round gives each cluster of the first stage a heat map. Several clusters may be looks of one landmark: their
heat maps then fire at one place. Each later round merges those that do and trains on with the heat maps that are left,
so that K, the number of landmarks, emerges; `landmarks` of params.yaml says nothing here.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.landmarks import channels, gather, merge
from uld.methods.base import Discovery, Labelled, Method, Task, Training
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import View
from uld.training import detectors
from uld.training.detectors import DetectorsParams


@dataclass(frozen=True, config=CLOSED)
class MallisCh5DetectorParams:
    """How the second stage labels and finds."""

    # labels of a cluster of the first stage, or it gets no heat map; more than 500 in the author's code
    min_labels: Annotated[int, Field(ge=0)]
    confident: Annotated[float, Field(ge=0, le=1)]  # heat above which a heat map counts in merging; 0.2
    near: Annotated[float, Field(gt=0)]  # cells; highest cells that are closer are one place; 1.425, with diagonals
    # share of the images of the rarer one in which two heat maps fire at one place, above which they merge; null: never
    merge: Annotated[float, Field(ge=0, le=1)] | None
    threshold: Annotated[float, Field(ge=0, le=1)]  # heat below which a landmark is missing; 0: never


class MallisCh5Detector(Method):
    """A landmark is a heat map."""

    Cluster = MallisCh5DetectorParams
    Train = DetectorsParams
    params: MallisCh5DetectorParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """What each heat map of the model finds; before there is one a landmark, what the labels to be taught show.

        Raises:
            ULDError: there are no labels, or too few of each cluster.
        """
        if _begun(task):
            return channels.discovery(replace(task, count=task.source.model.channels), average=False)
        return gather.discovery(task, merge.populous(_last(task), self.params.min_labels))

    # --- label ---

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """The labels of the round before: of large clusters alone, or after those that fire together have become one.

        Raises:
            ULDError: there are none, or they are not those of the model's heat maps.
        """
        last = _last(task)
        labels = self._merged(task, last) if _begun(task) else merge.populous(last, self.params.min_labels)
        figures = {"landmarks": labels.count, "labels": len(labels.image) / len(task.rows)}
        return Labelled(labels, figures | {"landmarks_left_out": last.count - labels.count})

    def _merged(self, task: Task, last: Labels) -> Labels:
        """Labels of the landmarks that remain."""
        source, p = task.source, self.params
        if last.count != source.model.channels:
            raise ULDError(
                f"the model has {source.model.channels} heat maps and its last labels are of {last.count} landmarks: "
                "start from a round of mallis_ch5_detector, or from one of mallis_ch5."
            )
        if p.merge is None:
            return merge.relabelled(last, np.arange(last.count))
        fired = merge.overlaps(source, task.rows, source.views.plain, p.confident, p.near)
        return merge.relabelled(last, merge.merged(fired, merge.populations(last), p.merge))

    # --- train ---

    @staticmethod
    def train(model: Model, training: Training, params: DetectorsParams) -> tuple[Model, pd.DataFrame]:
        """Each heat map learns the Gaussian of its landmark; those of the model that are left stay as they are."""
        return detectors.train(model, training, params, merge.continued(training.labels))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The highest cell of each heat map; a landmark is missing where that is below the threshold."""
        heat = source.maps(rows, view).heat
        return channels.find(heat, source.inside(rows, view), len(landmarks.centroids), self.params.threshold)


def _begun(task: Task) -> bool:
    """Whether the model has a heat map a landmark, as after a round of the second stage, be it of one landmark."""
    of_second = task.previous is not None and merge.CHANNEL in task.previous.own
    return task.source.model.channels > 1 or of_second


def _last(task: Task) -> Labels:
    """The labels that the model was last trained on."""
    if task.previous is None:
        raise ULDError(
            "the second stage takes the labels of the first, and its start has been through no round: start from a "
            "round of mallis_ch5."
        )
    return task.previous
