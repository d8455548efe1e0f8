"""Chapter 5 end to end on small photographs: generic points, two rounds of the first stage and two of the second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from tests.methods.conftest import task
from tests.methods.test_mallis_ch5 import BLOCK as FIRST
from tests.methods.test_mallis_ch5 import TRAIN as TRAIN_FIRST
from tests.methods.test_mallis_ch5_detector import BLOCK as SECOND
from tests.methods.test_mallis_ch5_detector import TRAIN as TRAIN_SECOND
from tests.methods.test_on_images import VIEWS
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.params import build
from uld.geometry import coords
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops
from uld.landmarks.predict import predict
from uld.methods import load
from uld.methods.base import Method, Task, Training
from uld.models.base import Model
from uld.models.hourglass import Hourglass
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.sources.source import Source

SIZE, GRID, CLUSTERS = 32, 16, 6
GENERIC = {"keypoints": {"by": "classical", "detector": "sift", "points": 12, "scale": 4, "robust": 0.9},
           "scales": [1, 1.3, 1.6], "merge": 1.0, "outliers": 0.1}  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.2, "min_points": 4, "max_points": 12, "heat_weight": 0.0}
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "generic": ("mallis_ch5", FIRST | {"points": GENERIC, "clusters": CLUSTERS, "far": 1.0}, {"steps": 40}),
    "own": ("mallis_ch5", FIRST | {"clusters": CLUSTERS, "detect": DETECT, "union": 1.0, "warm": True, "far": 1.0},
            {"steps": 5}),
    "split": ("mallis_ch5_detector", SECOND | {"min_labels": 2, "confident": 0.01}, {"steps": 20}),
    "merge": ("mallis_ch5_detector", SECOND | {"confident": 0.0, "near": 30.0, "merge": 0.5}, {"steps": 2}),
}  # fmt: skip


class Round(NamedTuple):
    """What a round began with, and what came of it."""

    landmarks: Landmarks
    labels: Labels
    health: dict[str, float]
    model: Model
    history: pd.DataFrame


class Course(NamedTuple):
    """All rounds by name, in order, and the images."""

    views: PixelViews
    boxes: pd.DataFrame
    rounds: dict[str, Round]


def method(name: str) -> tuple[Method, Any]:
    """The method of a round and the params of its training."""
    line, block, changes = METHODS[name]
    kind = load(line)
    train = (TRAIN_FIRST | {"lr": 5e-3, "descriptor_lr": 5e-3}) if line == "mallis_ch5" else TRAIN_SECOND
    return kind(build(kind.Cluster, block, name)), build(kind.Train, train | changes, name)


@pytest.fixture(scope="module")
def course(
    photographs: tuple[Path, pd.DataFrame],
    write_crops: Callable[[int], Crops],
    tmp_path_factory: pytest.TempPathFactory,
) -> Course:
    crops, boxes, folder = write_crops(SIZE), photographs[1], tmp_path_factory.mktemp("states")
    frames = Frames(crops.affine, corners(boxes), crops.inside, SIZE, GRID)
    rows = np.flatnonzero(boxes["split"] == "train")
    warps = np.stack([coords.view(SIZE, rotate=12)])
    views = PixelViews(crops.images, crops.inside, frames, rows, build(PixelViewParams, VIEWS, "views"), warps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Model = Hourglass(SIZE, GRID, 16, 1, 16, 2)  # random weights: nothing is trained before the first round
    done: dict[str, Round] = {}
    previous: Labels | None = None
    for name in METHODS:
        one, train = method(name)
        given = Task(Source(model, views), rows, CLUSTERS, np.random.default_rng(0), previous)
        landmarks = one.discover(given).landmarks
        labelled = one.label(given, landmarks)
        training = Training(labelled.labels, views, lambda step: np.random.default_rng([0, step]), folder / name, name)
        model, history = one.train(model, training, train)
        previous = labelled.labels
        done[name] = Round(landmarks, previous, labelled.health, model, history)
    return Course(views, boxes, done)


def test_generic_points_are_labelled_first(course: Course) -> None:
    first = course.rounds["generic"]
    assert first.landmarks.centroids.shape == (CLUSTERS, 128) and first.labels.count == CLUSTERS  # SIFT's descriptors
    assert set(first.labels.image) <= set(course.views.rows) and not first.labels.flipped.any()
    assert 0 < first.health["assigned"] < 1 and first.health["labels"] > 2
    assert ((first.labels.xy > [5, 3]) & (first.labels.xy < [38, 36])).all()  # in the boxes, but for half a cell
    assert first.history["detector"][-5:].mean() < 0.8 * first.history["detector"][:5].mean()


def test_the_next_round_has_its_own_points_and_the_old_ones(course: Course) -> None:
    first, second = course.rounds["generic"], course.rounds["own"]
    assert second.landmarks.centroids.shape == (CLUSTERS, 16)
    same = (second.labels.xy[:, None] == first.labels.xy).all(2) & (second.labels.image[:, None] == first.labels.image)
    assert 0 < same.any(1).sum() < len(second.labels.image)


def test_landmarks_emerge(course: Course) -> None:
    split, merged = course.rounds["split"], course.rounds["merge"]
    assert split.model.channels == split.labels.count == len(split.landmarks.centroids) <= CLUSTERS
    assert (
        merged.model.channels == merged.labels.count == 1 < split.labels.count
    )  # any two places are near, by the params
    assert len(merged.landmarks.centroids) == split.labels.count
    assert np.isfinite(merged.history["loss"]).all()


def test_any_image_is_searched_for_those_that_are_left(course: Course) -> None:
    """As stages discover and predict do, whatever number of landmarks params.yaml has."""
    model, last = course.rounds["merge"].model, course.rounds["merge"].labels
    one, source = method("merge")[0], Source(model, course.views)
    landmarks = one.discover(task(source, course.views.rows, 99, last)).landmarks
    found = predict(one, landmarks, source, course.boxes)
    assert found.found.xy.shape == (7, last.count, 2) and np.isfinite(found.found.dense_xy).all()
    assert found.warped.xy.shape == (2, 1, last.count, 2) and np.isfinite(found.warped.xy).all()
