"""Second stage of Mallis' chapter 4: points are aligned to one template, and each point of it gets a heat map."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.conftest import PARTS, PLAIN, Course, Planted, task
from uld.artifacts.labels import Labels, read_labels, write_labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.label import table
from uld.methods import load
from uld.methods.base import Labelled, Method, Training
from uld.models.base import Model

RMSPROP = {"by": "rmsprop", "weight_decay": 0, "clip": None, "carried": False}
TRAIN = {"steps": 60, "views": 8, "lr": 3e-3, "lr_rest": 3e-3, "optimiser": RMSPROP, "loss": "bce", "sigma": 0.75,
         "fresh": True}  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8}
DRIFT = {"transform": "similarity", "outliers": 0.1, "iterations": 50, "tolerance": 1e-4, "beta": 2.0, "stiffness": 2.0}
TEMPLATE = {"image": None, "drift": DRIFT, "near": 2.0, "share": 0.6, "complete": False}
BLOCK = {"detect": DETECT, "distil": None, "template": TEMPLATE, "mirror": "found", "threshold": 0.0}
ROWS = np.arange(2, 40)


def method(**changes: Any) -> Method:
    kind = load("mallis_ch4_detector")
    template = TEMPLATE | {key: changes.pop(key) for key in [*changes] if key in TEMPLATE}
    return kind(build(kind.Cluster, BLOCK | {"template": template} | changes, "methods.mallis_ch4_detector.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_ch4_detector")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.mallis_ch4_detector.train"))


def label(source: Any, previous: Labels | None = None, **changes: Any) -> Labelled:
    one, given = method(**changes), task(source, ROWS, PARTS, previous)
    return one.label(given, one.discover(given).landmarks)


def order(planted: Planted, row: int) -> np.ndarray:
    """Which part each landmark is, where the template is of this image."""
    template = method(image=row).discover(task(planted, ROWS)).landmarks.known_template()
    return np.asarray(np.linalg.norm(template[:, None] - planted.centres[row], axis=2).argmin(1))


# --- discover ---


def test_the_template_is_what_one_image_shows(planted: Planted) -> None:
    planted.heights[:, 0] = 0.7
    planted.heights[9, 0] = 0.95  # the surest
    for image, row in ((None, 9), (20, 20)):
        found = method(image=image).discover(task(planted, ROWS))
        landmarks = found.landmarks
        want = planted.centres[row][order(planted, row)]
        assert np.abs(landmarks.known_template() - want).max() < 0.3 and len({*want[:, 0]}) == PARTS
        assert (landmarks.exemplar_image[:, 0] == row).all() and (landmarks.exemplar_image[:, 1:] == -1).all()
        np.testing.assert_allclose(
            landmarks.exemplar_xy[:, 0], planted.to_image(np.array([row]), landmarks.known_template()[None])[0]
        )
        part = landmarks.centroids[:, 1 : 1 + PARTS].argmax(1)
        np.testing.assert_array_equal(part, order(planted, row))
        mirror = landmarks.known_mirror()  # the parts lie on a square
        np.testing.assert_array_equal(part[mirror], np.array([1, 0, 3, 2])[part])
        assert landmarks.counts.tolist() == [1] * PARTS and found.quality["points"] == PARTS
    with pytest.raises(ULDError, match="a template of 5 landmarks"):
        method().discover(task(planted, ROWS, 5))


# --- label ---


def test_points_are_aligned_in_both_flips(planted: Planted) -> None:
    planted.heights[9, 0, 2] = 0.1  # one is missing
    planted.heights[11, 0, 1:] = 0.1  # too many are missing
    planted.heights[12, 0] = 0.1  # all are
    marked = label(planted, image=20)
    labels = marked.labels
    np.testing.assert_array_equal(
        labels.own["template"], method(image=20).discover(task(planted, ROWS)).landmarks.template
    )
    want = planted.to_image(ROWS, planted.centres[ROWS])[:, order(planted, 20)]
    plain, mirrored = (table(labels, ROWS, flipped, PARTS) for flipped in (False, True))
    known = np.isfinite(plain).all(2)
    gone = np.zeros_like(known)
    gone[9, 0] = gone[[9, 10]] = True
    gone[7] = order(planted, 20) == 2
    np.testing.assert_array_equal(known, ~gone)
    assert np.abs(plain - want)[known].max() < 0.3 * 3
    # in the mirror image the part on the left is the template's right one
    np.testing.assert_allclose(mirrored, want[:, label_turns(planted)], atol=0.3 * 3)
    assert marked.health["left_out"] == pytest.approx(2 / 76) and marked.health["aligned"] == pytest.approx(74 / 76)
    assert marked.health["labels"] == len(labels.image) / 76 and marked.health["detections"] == (4 * 76 - 8) / 76


def label_turns(planted: Planted) -> np.ndarray:
    return method(image=20).discover(task(planted, ROWS)).landmarks.known_mirror()


def test_missing_points_are_where_the_template_is(planted: Planted) -> None:
    planted.heights[9, 0, 2] = 0.1
    labels = label(planted, image=20, complete=True, mirror=None).labels
    assert not labels.flipped.any() and len(labels.image) == PARTS * len(ROWS)
    guessed = ~labels.detected
    assert labels.image[guessed].tolist() == [9] and labels.score[guessed].tolist() == [0]
    want = planted.to_image(np.array([9]), planted.centres[9:10])[0, 2]
    assert np.linalg.norm(labels.xy[guessed][0] - want) < 2 * 3


def test_the_mirror_image_by_the_template(planted: Planted) -> None:
    planted.heights[:, 1] = 0.0  # nothing is looked for in the mirror image
    labels = label(planted, image=20, mirror="template").labels
    plain, mirrored = (table(labels, ROWS, flipped, PARTS) for flipped in (False, True))
    assert np.isfinite(plain).all()
    np.testing.assert_array_equal(mirrored[:, label_turns(planted)], plain)


@pytest.mark.parametrize("mirror", ["found", "template", None])
def test_later_rounds_are_taught_with_what_the_heat_maps_find(planted: Planted, tmp_path: Any, mirror: Any) -> None:
    write_labels(tmp_path / "labels.h5", label(planted, image=20).labels)
    previous = read_labels(tmp_path / "labels.h5")  # the template goes with the model
    planted.channels = PARTS
    planted.heights[9, 0, 2] = 0.2
    marked = label(planted, previous, mirror=mirror, threshold=0.3)
    labels = marked.labels
    np.testing.assert_array_equal(labels.own["template"], previous.own["template"])
    plain = table(labels, ROWS, False, PARTS)
    known = np.isfinite(plain).all(2)
    assert (~known).sum() == 1 and not known[7, 2]
    want = planted.to_image(ROWS, planted.centres[ROWS])
    assert np.abs(plain - want)[known].max() < 0.05 * 3
    other = table(labels, ROWS, True, PARTS)
    if mirror is None:
        assert not np.isfinite(other).any()
    elif mirror == "found":  # channels of the planted source stay with their parts
        assert np.abs(other - want).max() < 0.05 * 3
    else:
        found = method().discover(task(planted, ROWS, PARTS, previous)).landmarks
        np.testing.assert_array_equal(other[:, found.known_mirror()], plain)
    flips = 2 if mirror == "found" else 1
    assert marked.health["labels"] == PARTS - 1 / (flips * len(ROWS))


def test_the_template_of_a_model_that_has_none(planted: Planted) -> None:
    planted.channels = PARTS
    assert "template" not in label(planted).labels.own
    with pytest.raises(ULDError, match="no template: let the rounds of mallis_ch4_detector start from"):
        label(planted, mirror="template")


# --- train and find ---


def test_rounds_of_heat_maps(planted: Planted, course: Course) -> None:
    """The first from one heat map, the next from as many as there are landmarks; each from scratch, or not."""
    planted.heights[9, 0, 2] = 0.1
    first = label(planted, image=20).labels
    model, history = train(course.head(), course.training(first))
    assert model.channels == PARTS and history["loss"][-5:].mean() < 0.5 * history["loss"][:5].mean()
    source, one = course.source(model), method()
    landmarks = one.discover(task(source, ROWS, PARTS, first)).landmarks
    np.testing.assert_array_equal(landmarks.known_template(), first.own["template"])
    rows = np.arange(40, 60)
    found = one.find(source, landmarks, rows, source.views.plain)
    gap = np.linalg.norm(found.xy - planted.centres[rows][:, order(planted, 20)], axis=2)
    assert np.median(gap) < 1, gap
    none = method(threshold=1.0).find(source, landmarks, rows, source.views.plain)
    assert np.isnan(none.xy).all() and np.array_equal(none.dense_xy, found.dense_xy)
    second = one.label(task(source, ROWS, PARTS, first), landmarks).labels
    on, _ = train(model, course.training(second), steps=0, fresh=False)
    assert torch.equal(on.detector_head[-1].weight, model.detector_head[-1].weight)
    anew, _ = train(model, course.training(second), steps=0)
    assert anew.channels == PARTS and not torch.equal(anew.detector_head[-1].weight, model.detector_head[-1].weight)
    widened, _ = train(course.head(), course.training(second), steps=0, fresh=False)
    old, new = (dict(head.named_parameters())["aggregate.mixing_weights"] for head in (course.head(), widened))
    assert widened.channels == PARTS and torch.equal(old, new)


def test_heat_maps_of_other_landmarks(planted: Planted, course: Course) -> None:
    labels = label(planted).labels
    with pytest.raises(ULDError, match="round one: its start has 3 heat maps"):
        train(course.head().with_channels(3), course.training(labels), fresh=False)
    with pytest.raises(ULDError, match=r"1 heat maps for 4 landmarks: .* mallis_d_detector or mallis_ch4_detector"):
        method().find(planted, method().discover(task(planted, ROWS)).landmarks, ROWS, PLAIN)  # type: ignore[arg-type]
