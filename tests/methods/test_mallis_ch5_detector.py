"""Second stage of chapter 5: a heat map a cluster, which of them become one, and that what is left stays."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from tests.labels import taken
from tests.methods.conftest import PARTS, PLAIN, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.merge import CHANNEL, NEW, relabelled
from uld.methods import load
from uld.methods.base import Labelled, Method, Training
from uld.models.base import Model
from uld.models.headed import Headed
from uld.training.detectors import kept_moments

TRAIN = {"steps": 80, "views": 8, "lr": 1e-2, "lr_rest": 1e-3, "optimiser": ADAM, "loss": "present_mse", "sigma": 0.75}
BLOCK = {"min_labels": 20, "confident": 0.2, "near": 1.425, "merge": 0.7, "threshold": 0.0}
ROWS = np.arange(2, 40)
SEVEN = 7  # clusters: a part of its own each, then two that share the first part, and one that is rare


def method(**changes: Any) -> Method:
    kind = load("mallis_ch5_detector")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.mallis_ch5_detector.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_ch5_detector")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.mallis_ch5_detector.train"))


def label(source: Any, previous: Labels | None, **changes: Any) -> Labelled:
    return method(**changes).label(task(source, ROWS, previous=previous), None)  # type: ignore[arg-type]


def first_stage(source: Planted) -> Labels:
    """Clusters 1 to 3 are parts; 0, 4 and 5 are looks of one part, of which an image shows one; 6 is in four images."""
    lines = []
    for place, row in enumerate(ROWS):
        looks = (0, 4, 5)[min(2, place % 4)]  # half of the images have 5
        lines += [(row, k, k) for k in (1, 2, 3)] + [(row, looks, 0)]
        lines += [(row, 6, 2)] * (place < 4)
    image, slot, part = (np.array(column) for column in zip(*sorted(lines), strict=True))
    xy = source.to_image(image, source.centres[image, part][:, None])[:, 0]
    there = np.ones(len(image), bool)
    return Labels(image, ~there, slot, xy, np.ones(len(image), np.float32), there, SEVEN)


class Rounds(NamedTuple):
    """Labels and models of two rounds on planted images: six clusters, then what is left of them."""

    planted: Planted
    course: Course
    first: Labelled
    begun: Model
    history: pd.DataFrame
    second: Labelled
    ended: Model


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    planted = Planted(60)
    course = Course(planted, tmp_path_factory.mktemp("states"))
    first = label(planted, first_stage(planted), min_labels=8)
    begun, history = train(course.head(), course.training(first.labels))
    second = label(course.source(begun), first.labels)
    ended, _ = train(begun, course.training(second.labels), steps=3)
    return Rounds(planted, course, first, begun, history, second, ended)


def test_the_first_round_takes_large_clusters(rounds: Rounds) -> None:
    labels = rounds.first.labels
    assert labels.count == 6 and (labels.own[CHANNEL] == NEW).all()
    assert np.bincount(labels.label).tolist() == [10, 38, 38, 38, 10, 18]
    assert rounds.first.health == {"landmarks": 6, "labels": 4, "landmarks_left_out": 1}
    with pytest.raises(ULDError, match="no landmark has 39 labels, the most are 38: lower"):
        label(rounds.planted, first_stage(rounds.planted), min_labels=39)


def test_each_cluster_gets_a_heat_map_where_there_are_labels(rounds: Rounds) -> None:
    loss, history = rounds.history["loss"], rounds.history
    assert rounds.begun.channels == 6 and loss[-5:].mean() < 0.5 * loss[:5].mean()
    assert history["present"].max() <= 4 / 6 + 1e-6


def test_looks_of_one_landmark_become_one(rounds: Rounds) -> None:
    """All of part 0 fire there; the most populous, 5, goes on with the labels of the others."""
    labels = rounds.second.labels
    assert labels.count == 4 and rounds.second.health["landmarks_left_out"] == 2
    assert np.unique(labels.own[CHANNEL]).tolist() == [1, 2, 3, 5]
    assert np.bincount(labels.label).tolist() == [38] * 4
    np.testing.assert_array_equal(labels.own[CHANNEL], np.array([1, 2, 3, 5])[labels.label])
    source = rounds.course.source(rounds.begun)
    for never in ({"merge": None}, {"merge": 1.0}, {"confident": 1.0}):
        assert label(source, rounds.first.labels, **never).labels.count == 6


def test_heat_maps_that_are_left_are_trained_on(rounds: Rounds) -> None:
    planted, ended, previous = rounds.planted, rounds.ended, rounds.second.labels
    assert ended.channels == 4 and isinstance(rounds.begun, Headed)
    kept = rounds.begun.kept_channels(np.array([1, 2, 3, 5])).state_dict()
    moved = {name: float((value - kept[name]).abs().max()) for name, value in ended.state_dict().items()
             if name.startswith("detector_head")}  # fmt: skip
    assert moved and 0 < max(moved.values()) < 0.04  # three steps of Adam at 1e-2, from where they were
    source, one = rounds.course.source(ended), method()
    found = one.discover(task(source, ROWS, 99, previous))  # how many are asked for does not count
    assert found.landmarks.centroids.shape == (4, 1 + 3 * PARTS) and found.landmarks.counts.tolist() == [len(ROWS)] * 4
    rows = np.arange(42, 50)  # images it has not seen
    at = one.find(source, found.landmarks, rows, source.views.plain)
    assert np.abs(at.xy - planted.centres[rows][:, [1, 2, 3, 0]]).max() < 1
    np.testing.assert_array_equal(at.xy, at.dense_xy)
    assert label(source, previous).labels.count == 4


def test_before_there_are_heat_maps_labels_are_described(planted: Planted) -> None:
    found = method(min_labels=8).discover(task(planted, ROWS, 99, first_stage(planted)))
    part = found.landmarks.centroids[:, 1 : 1 + PARTS].argmax(1)
    assert part.tolist() == [0, 1, 2, 3, 0, 0] and found.landmarks.counts.tolist() == [10, 38, 38, 38, 10, 18]


def test_the_optimiser_goes_on(planted: Planted, course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """It remembers the heat maps that are left, each under its new number."""
    carried = {"optimiser": ADAM | {"carried": True}, "steps": 2}
    first = course.training(label(planted, first_stage(planted), min_labels=8).labels)
    head, _ = train(course.head(), first, **carried)
    last = len(list(head.detector_head.parameters())) - 2
    kept, key = np.array([5, 1]), f"0.{last}.exp_avg_sq"
    assert isinstance(head, Headed) and first.moments[key].shape[0] == 6
    found = kept_moments(first.moments, head, kept)
    assert set(found) == {f"0.{place}.{name}" for place in (last, last + 1) for name in ("exp_avg", "exp_avg_sq")}
    assert torch.equal(found[key], first.moments[key][[5, 1]])
    labels = relabelled(first.labels, np.array([1, 1, 2, 3, 1, 5]))
    later = replace(course.training(labels), moments=dict(first.moments))
    ended, _ = train(head, later, **carried)
    assert ended.channels == 4 and later.moments[key].shape[0] == 4
    assert "begins anew" not in capsys.readouterr().out


def test_one_landmark_is_a_heat_map_too(planted: Planted, course: Course) -> None:
    """A model with one heat map that is a landmark is told from one whose heat map fires at any point."""
    labels = label(planted, taken(first_stage(planted), first_stage(planted).label == 2)).labels
    assert labels.count == 1
    head, _ = train(course.head(), course.training(labels), steps=2)
    source = course.source(head)
    assert method().discover(task(source, ROWS, 9, labels)).landmarks.counts.tolist() == [len(ROWS)]
    again = label(source, labels).labels
    assert again.count == 1 and again.own[CHANNEL].tolist() == [0] * len(ROWS)


def test_landmarks_are_missing_below_the_threshold(planted: Planted) -> None:
    planted.channels = PARTS
    planted.heights[44, 0] = [0.9, 0.2, 0.7, 0.4]
    landmarks = method().discover(task(planted, ROWS)).landmarks
    found = method(threshold=0.45).find(planted, landmarks, np.arange(43, 46), PLAIN)  # type: ignore[arg-type]
    assert np.argwhere(np.isnan(found.score)).tolist() == [[1, 1], [1, 3]] and np.isfinite(found.dense_xy).all()


def test_starts_that_are_refused(planted: Planted, course: Course) -> None:
    with pytest.raises(ULDError, match="takes the labels of the first, and its start has been through no round"):
        label(planted, None)
    with pytest.raises(ULDError, match="takes the labels of the first"):
        method().discover(task(planted, ROWS))
    planted.channels = PARTS
    with pytest.raises(ULDError, match="the model has 4 heat maps and its last labels are of 7 landmarks: start from"):
        label(planted, first_stage(planted))
    labels = replace(label(Planted(60), first_stage(planted)).labels, own={CHANNEL: np.empty(0, int)})
    with pytest.raises(ULDError, match="round one: its labels are empty"):
        train(course.head(), course.training(taken(labels, slice(0))))
