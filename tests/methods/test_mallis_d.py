"""First stage of Mallis (D): which detections survive, what is taught, and that training teaches it."""

from typing import Any

import numpy as np
import pytest

from tests.labels import taken
from tests.methods.conftest import MIRROR, PARTS, PLAIN, VIEWS, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks import label
from uld.landmarks.label import Pool
from uld.methods import load
from uld.methods.base import Labelled, Method, Training
from uld.models.base import Model
from uld.sources.views import View

TRAIN = {"steps": 40, "pairs": 4, "lr": 3e-3, "descriptor_lr": 1e-3, "optimiser": ADAM, "other_image": 0.5,
         "sigma": 1.0, "margin": 0.8,
         "negatives": 16, "min_distance": 3.0, "descriptor_weight": 1.0}  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8, "heat_weight": 0.0}
BLOCK = {"clusters": 3, "pool": "detections", "points": 20, "max_points": 100_000, "restarts": 3, "iterations": 20,
         "over_clustering": 1, "recentre": 0, "images": 100, "detect": DETECT}  # fmt: skip
ROWS = np.arange(2, 40)


def method(**changes: Any) -> Method:
    kind = load("mallis_d")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.mallis_d.cluster"))


def train(model: Model, training: Training) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_d")
    return kind.train(model, training, build(kind.Train, TRAIN, "methods.mallis_d.train"))


def mark(source: Any, count: int, **changes: Any) -> Labelled:
    one = method(**changes)
    return one.label(task(source, ROWS, count), one.discover(task(source, ROWS, count)).landmarks)


def keys(labels: Labels) -> list[tuple[bool, int]]:
    return list(zip(labels.flipped.tolist(), labels.image.tolist(), strict=True))


def test_landmarks_are_clusters_of_detections_in_both_flips(planted: Planted) -> None:
    found = method().discover(task(planted, ROWS))
    assert found.landmarks.counts.tolist() == [len(ROWS)] * PARTS  # of the photographs themselves
    assert found.quality["points"] == 2 * PARTS * len(ROWS) and found.quality["silhouette"] > 0.5
    image = found.landmarks.exemplar_image.ravel()
    centres = planted.to_image(image, planted.centres[image])
    part = np.linalg.norm(centres - found.landmarks.exemplar_xy.reshape(-1, 1, 2), axis=2).argmin(1).reshape(PARTS, -1)
    assert np.isin(image, ROWS).all() and (part == part[:, :1]).all() and len(set(part[:, 0])) == PARTS


def test_rounds_do_not_start_from_earlier_ones(planted: Planted) -> None:
    marked = mark(planted, PARTS)
    fresh, later = (method().discover(task(planted, ROWS, 3, previous)) for previous in (None, marked.labels))
    np.testing.assert_array_equal(fresh.landmarks.centroids, later.landmarks.centroids)


def test_closest_equals_a_plain_loop() -> None:
    draw = np.random.default_rng(5)
    image, flipped = np.repeat([[3, 4, 9, 3, 9]], 6, 0).T.ravel(), np.repeat([False, False, False, True, True], 6)
    x = draw.normal(size=(30, 4)).astype(np.float32)
    centroids = draw.normal(size=(3, 4)).astype(np.float32)
    points = Pool(image, flipped, draw.normal(size=(30, 2)).astype(np.float32), x)
    gap = ((x[:, None] - centroids) ** 2).sum(2)
    best: dict[tuple[bool, int, int], int] = {}
    for i in range(30):
        key = (bool(flipped[i]), int(image[i]), int(gap[i].argmin()))
        if key not in best or gap[i].min() < gap[best[key]].min():
            best[key] = i
    order = sorted(best)
    found, own = label.closest(points, centroids)
    assert len(order) < 15  # of 15 slots some are empty, and all 30 points fall into some
    np.testing.assert_array_equal(found.xy, points.xy[[best[key] for key in order]])
    np.testing.assert_array_equal(np.stack([found.flipped, found.image, own], 1), order)


def test_labels_look_for_no_point_again(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    own, maps = method(), planted.maps
    asked: list[int] = []
    monkeypatch.setattr(planted, "maps", lambda rows, view: asked.append(len(rows)) or maps(rows, view))
    found = task(planted, ROWS, 3)
    landmarks = own.discover(found).landmarks
    assert sum(asked) == 2 * len(ROWS)
    labels = own.label(found, landmarks).labels
    assert sum(asked) == 2 * len(ROWS) and len(labels.image)


def test_only_survivors_are_labelled_and_once_each(planted: Planted) -> None:
    planted.heights[9, 0, 1] = 0.1  # one landmark is missing in one image, not in its mirror image
    marked = mark(planted, 3, clusters=5)  # four parts in three clusters: two meet in one, of which one stays
    labels = marked.labels
    assert set(labels.label.tolist()) == set(range(5)) and labels.detected.all()
    assert len(np.unique(np.stack([labels.flipped, labels.image, labels.label]), axis=1).T) == len(labels.image)
    assert keys(labels) == sorted(keys(labels)) and set(labels.image.tolist()) == set(ROWS.tolist())
    survivors, _ = label.closest(
        label.detections(planted, ROWS, method().params.detect),  # type: ignore[attr-defined]
        method().discover(task(planted, ROWS, 3)).landmarks.centroids,
    )
    assert marked.health["survivors"] == len(survivors.image) / (2 * len(ROWS)) < 3 + 1e-9
    known = {(v, i, *xy) for v, i, xy in zip(survivors.flipped, survivors.image, survivors.xy.tolist(), strict=True)}
    assert {(v, i, *xy) for v, i, xy in zip(labels.flipped, labels.image, labels.xy.tolist(), strict=True)} <= known
    assert marked.health["detections"] == PARTS - 1 / (2 * len(ROWS)) and marked.health["labels_detected"] == 1
    assert marked.health["labels"] == len(labels.image) / (2 * len(ROWS))


def test_the_same_part_gets_the_same_label_in_both_flips(planted: Planted) -> None:
    labels = mark(planted, PARTS, clusters=PARTS).labels
    centres = planted.to_image(labels.image, planted.centres[labels.image])  # (M, PARTS, 2)
    gap = np.linalg.norm(centres - labels.xy[:, None], axis=2)
    assert gap.min(1).max() < 0.3 * 3  # pixels of three to a cell
    pairs = {*zip(labels.label.tolist(), gap.argmin(1).tolist(), strict=True)}
    assert len(pairs) == PARTS and len(labels.image) == 2 * PARTS * len(ROWS)
    assert (labels.score > 0.95).all() and (labels.score <= 1 + 1e-5).all()


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(("left", "out"), [(0, True), (1, True), (2, False)])
def test_images_with_fewer_than_two_labels_are_left_out(planted: Planted, flip: int, left: int, out: bool) -> None:
    planted.heights[11, flip, left:] = 0.1
    marked = mark(planted, PARTS, clusters=PARTS)
    assert (11 not in marked.labels.image) == out
    assert set(ROWS) - set(marked.labels.image) == ({11} if out else set())
    assert marked.health["left_out"] == out / len(ROWS)
    assert marked.health["without_detection"] == (left == 0) / (2 * len(ROWS))


def test_more_clusters_than_survivors(planted: Planted) -> None:
    survivors = 2 * PARTS * len(ROWS)
    with pytest.raises(
        ULDError, match=rf"^{survivors} points .* {survivors + 1} clusters: lower methods.mallis_d.cluster.clus"
    ):
        mark(planted, PARTS, clusters=survivors + 1)
    assert mark(planted, PARTS, clusters=survivors).health["survivors"] == PARTS


def test_no_detection_at_all(planted: Planted) -> None:
    planted.heights[:] = 0.1
    with pytest.raises(ULDError, match="no point is detected"):
        method().discover(task(planted, ROWS))
    planted.heights[6, 1, :2] = 0.9  # one image in one flip is enough, though no picture of it
    assert method().discover(task(planted, ROWS, 2)).landmarks.counts.tolist() == [0, 0]


@pytest.mark.parametrize("view", [PLAIN, MIRROR])
def test_finds_the_parts_that_are_detected(planted: Planted, view: View) -> None:
    landmarks = method().discover(task(planted, ROWS)).landmarks
    planted.heights[45, VIEWS.index(view), 2] = 0.1
    rows = np.arange(44, 50)
    found = method().find(planted, landmarks, rows, view)
    centres = planted.to_image(rows, planted.centres[rows])
    at = planted.to_image(rows, found.dense_xy, view)
    slot = np.linalg.norm(at[0][None] - centres[0][:, None], axis=2).argmin(1)
    assert len(set(slot.tolist())) == PARTS
    assert np.abs(at[:, slot] - centres).max() < 0.75 * 3
    there = np.isfinite(found.xy).all(2)[:, slot]
    assert not there[1, 2] and there.sum() == PARTS * len(rows) - 1
    assert np.array_equal(there, np.isfinite(found.score[:, slot]))
    at = planted.to_image(rows, found.xy, view)[:, slot]
    assert np.abs(at - centres)[there].max() < 0.3 * 3


def test_training_teaches_where_and_which(planted: Planted, course: Course) -> None:
    planted.heights[7, 1, 1:] = 0.1
    planted.heights[8, 0, 1:] = 0.1
    labels = mark(planted, PARTS, clusters=PARTS).labels
    head, history = train(course.head(), course.training(labels))
    first, last = history[:5].mean(), history[-5:].mean()
    assert last["detector"] < 0.7 * first["detector"] and last["descriptor"] < 0.9 * first["descriptor"]
    assert set(course.store.asked) == set(ROWS) - {7, 8}
    found = mark(course.source(head), PARTS)
    assert found.health["detections"] == pytest.approx(PARTS, abs=0.2)
    again, _ = train(course.head(), course.training(labels))
    assert all((a == b).all() for a, b in zip(head.parameters(), again.parameters(), strict=True))


def test_models_that_a_round_cannot_train(planted: Planted, course: Course) -> None:
    labels = mark(planted, PARTS, clusters=PARTS).labels
    with pytest.raises(ULDError, match="round one: a round needs a model to train"):
        train(course.head().base, course.training(labels))
    with pytest.raises(ULDError, match="round one: its start has 4 heat maps, not one"):
        train(course.head().with_channels(4), course.training(labels))
    empty = taken(labels, slice(0))
    with pytest.raises(ULDError, match="round one: its labels are empty"):
        train(course.head(), course.training(empty))
