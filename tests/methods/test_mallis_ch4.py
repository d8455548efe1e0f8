"""First stage of Mallis' chapter 4: whose points a round learns, and that it learns them from scratch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.conftest import PARTS, PLAIN, Course, Planted, task
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.detect import Points
from uld.landmarks.label import table
from uld.methods import load, mallis_ch4
from uld.methods.base import Method, Training
from uld.models.base import Model
from uld.training.fresh import fresh

RMSPROP = {"by": "rmsprop", "weight_decay": 1e-5, "clip": None, "carried": False}
TRAIN = {"steps": 40, "views": 8, "lr": 2e-3, "optimiser": RMSPROP, "sigma": 1.0, "fresh": True}
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8}
GENERIC = {"keypoints": {"by": "classical", "detector": "orb", "points": 8, "scale": 4, "robust": 0.9},
           "scales": [1], "merge": 0, "outliers": 0}  # fmt: skip
BLOCK = {"points": None, "detect": DETECT, "distil": None, "mirror": True}
ROWS = np.arange(2, 40)


def method(**changes: Any) -> Method:
    kind = load("mallis_ch4")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.mallis_ch4.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_ch4")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.mallis_ch4.train"))


def label(source: Any, previous: Labels | None = None, **changes: Any) -> Labels:
    one, given = method(**changes), task(source, ROWS, 10, previous)
    return one.label(given, one.discover(given).landmarks).labels


# --- discover and find ---


def test_there_are_no_landmarks(planted: Planted) -> None:
    found = method().discover(task(planted, ROWS))
    assert found.landmarks.centroids.shape == (0, 0) and not found.quality
    for look in (method().find, method().match):
        with pytest.raises(ULDError, match="has no landmarks: let the row start from a round of mallis_ch4_detector"):
            look(planted, found.landmarks, ROWS, PLAIN)  # type: ignore[arg-type]


# --- label ---


def test_all_detections_are_taught_in_both_flips(planted: Planted) -> None:
    planted.heights[5, 0, 3] = planted.heights[7, 0] = 0.1
    one, given = method(), task(planted, ROWS)
    marked = one.label(given, one.discover(given).landmarks)
    labels = marked.labels
    assert labels.count == PARTS and labels.detected.all() and 7 not in labels.image
    plain, mirrored = (table(labels, ROWS, flipped, PARTS) for flipped in (False, True))
    np.testing.assert_array_equal(plain, mirrored)
    want = planted.to_image(ROWS, planted.centres[ROWS])
    whole = ~np.isin(ROWS, [5, 7])
    gap = np.linalg.norm(plain[whole, :, None] - want[whole, None], axis=3)
    assert gap.min(1).max() < 0.4 * 3 and gap.min(2).max() < 0.4 * 3
    score = labels.score.reshape(2, -1)[0]
    assert (np.diff(score)[labels.image[: len(score) - 1] == labels.image[1 : len(score)]] <= 0).all()  # surest first
    assert np.isfinite(plain[~whole]).all(2).tolist() == [[True, True, True, False], [False] * 4]
    images = len(ROWS)
    assert marked.health["detections"] == marked.health["labels"] == (PARTS * (images - 1) - 1) / images
    assert marked.health["without_detection"] == 1 / images
    assert not label(planted, mirror=False).flipped.any()


def test_a_generic_detector_names_the_points_of_the_first_round_alone(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(source: Any, rows: np.ndarray, view: Any, p: Any, rng: Any) -> Any:
        """Two points an image, none in the first batch."""
        assert p.keypoints["by"] == "classical" and view is PLAIN
        none = np.array([], np.int64)
        nothing = Points(none, np.empty((0, 2), np.float32), none.astype(np.float32), np.empty((0, 3), np.float32))
        yield rows[:3], nothing
        index = np.repeat(np.arange(len(rows) - 3), 2)
        xy = np.tile(np.array([[3, 4], [9, 9]], np.float32), (len(rows) - 3, 1))
        yield rows[3:], Points(index, xy, np.full(len(index), 7.0, np.float32), np.ones((len(index), 3), np.float32))

    monkeypatch.setattr(mallis_ch4, "generic", named)
    first = label(planted, points=GENERIC)
    assert first.count == 2 and set(first.image) == set(ROWS[3:]) and (first.score == 7).all()
    np.testing.assert_allclose(first.xy[:2], planted.to_image(ROWS[3:4], np.array([[[3, 4], [9, 9]]], np.float32))[0])
    later, own = label(planted, first, points=GENERIC), label(planted)
    np.testing.assert_array_equal(later.xy, own.xy)
    assert own.count == PARTS


# --- train ---


def moved(before: Model, after: Model) -> set[str]:
    old = dict(before.named_parameters())
    return {name for name, value in after.named_parameters() if not torch.equal(value, old[name])}


def test_the_heat_map_learns_the_points(planted: Planted, course: Course) -> None:
    planted.heights[8] = 0.1  # has no label
    model, history = train(course.head(), course.training(label(planted)))
    assert model.channels == 1 and not model.training and (history["points"] == PARTS).all()
    assert history["loss"][-5:].mean() < 0.6 * history["loss"][:5].mean()
    assert set(course.store.asked) <= set(ROWS) - {8}
    rows = np.arange(40, 60)  # unseen
    source = course.source(model)
    heat = source.maps(rows, source.views.plain).heat[:, 0]
    x, y = planted.centres[rows].round().astype(int).transpose(2, 0, 1)
    assert heat.numpy()[np.arange(len(rows))[:, None], y, x].mean() > 3 * heat.mean()


def test_weights_are_drawn_anew_from_the_round(planted: Planted, course: Course) -> None:
    labels = label(planted)
    one, other = (train(course.head(), course.training(labels), steps=2)[0] for _ in range(2))
    assert not moved(one, other)
    assert moved(one, train(course.head(), course.training(labels, seed=1), steps=2)[0])
    begun = train(course.head(), course.training(labels), steps=0)[0]
    assert "aggregate.bottleneck_layers.0.0.conv3.weight" in moved(course.head(), begun)
    torch.testing.assert_close(dict(begun.named_buffers()), dict(course.head().named_buffers()))
    kept = train(course.head(), course.training(labels), steps=0, fresh=False)[0]
    assert not moved(course.head(), kept)


def test_descriptors_are_not_taught(planted: Planted, course: Course) -> None:
    begun, after = (
        train(course.head(), course.training(label(planted)), steps=steps, fresh=False)[0] for steps in (0, 2)
    )
    names = moved(begun, after)
    assert any(name.startswith("aggregate.") for name in names)
    assert any(name.startswith("detector_head.") for name in names)
    assert not any(name.startswith("descriptor_head.") for name in names)


def test_rounds_that_cannot_begin(planted: Planted, course: Course) -> None:
    training = course.training(label(planted))
    with pytest.raises(ULDError, match=r"round one: .* set optimiser\.carried or fresh to false"):
        train(course.head(), training, optimiser=RMSPROP | {"carried": True})
    with pytest.raises(ULDError, match="round one: its start has 4 heat maps"):
        train(course.head().with_channels(PARTS), training)
    head = course.head()
    head.frozen_trunk = True
    with pytest.raises(ULDError, match=r"frozen trunk cannot be drawn anew: set methods\.\*\.train\.fresh to false"):
        train(head, training)


def test_fresh_models_have_as_many_heat_maps_as_asked(course: Course) -> None:
    one = fresh(course.head(), PARTS, SimpleNamespace(integers=lambda _: 5))  # type: ignore[arg-type]
    assert one.channels == PARTS and one.detector_head[-1].weight.shape[0] == PARTS
