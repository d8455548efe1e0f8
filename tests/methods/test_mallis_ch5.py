"""First stage of chapter 5: what is clustered, which points are labelled, and that training teaches it."""

from typing import Any

import numpy as np
import pytest

from tests.labels import taken
from tests.methods.conftest import MIRROR, PARTS, PLAIN, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.labels import Labels
from uld.base.errors import ParamsError, ULDError
from uld.base.params import build
from uld.methods import load
from uld.methods.base import Method, Training
from uld.models.base import Model

TRAIN = {"steps": 40, "pairs": 4, "lr": 3e-3, "descriptor_lr": 1e-3, "optimiser": ADAM, "other_image": 0.5,
         "sigma": 1.0, "descriptor_weight": 1.0, "margin": 0.8, "negatives": 3000, "least": 2}  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8, "heat_weight": 0.0}
BLOCK = {"clusters": PARTS, "points": None, "detect": DETECT, "union": None, "warm": False, "far": None,
         "background": None, "max_points": 100_000, "restarts": 3, "iterations": 20}  # fmt: skip
POINTS = {"keypoints": {"by": "classical", "detector": "sift", "points": 9, "scale": 4, "robust": 0.9},
          "scales": [1], "merge": 0, "outliers": 0}  # fmt: skip
ROWS = np.arange(2, 30)


def method(**changes: Any) -> Method:
    kind = load("mallis_ch5")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.mallis_ch5.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("mallis_ch5")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.mallis_ch5.train"))


def mark(source: Any, previous: Labels | None = None, **changes: Any) -> Any:
    """Landmarks and labels."""
    given = task(source, ROWS, {**BLOCK, **changes}["clusters"], previous)
    one = method(**changes)
    found = one.discover(given)
    return found.landmarks, one.label(given, found.landmarks)


def parts_of(source: Planted, labels: Labels) -> np.ndarray:
    """Which part lies at each label; -1 where none is within a cell."""
    gap = np.linalg.norm(source.to_image(labels.image, source.centres[labels.image]) - labels.xy[:, None], axis=2)
    return np.where(gap.min(1) < 3, gap.argmin(1), -1)


def test_each_part_is_a_cluster_of_the_images_as_they_are(planted: Planted) -> None:
    planted.heights[9, 0, 1] = 0.1
    landmarks, marked = mark(planted)
    labels = marked.labels
    assert not labels.flipped.any() and labels.detected.all() and labels.count == PARTS
    assert len(labels.image) == PARTS * len(ROWS) - 1 and landmarks.counts.sum() == len(labels.image)
    pairs = {*zip(labels.label.tolist(), parts_of(planted, labels).tolist(), strict=True)}
    assert len(pairs) == PARTS and -1 not in {part for _, part in pairs}
    assert marked.health["assigned"] == 1 and marked.health["labels"] == PARTS - 1 / len(ROWS)
    assert (labels.score > 0.95).all()


def test_an_image_has_one_point_a_cluster_and_poor_ones_go(planted: Planted) -> None:
    """Of two clusters for four parts an image keeps two points; those far from their cluster go too."""
    for far, least, most in ((None, 2, 2), (0.0, 0, 1.9)):
        _, marked = mark(planted, clusters=2, far=far)
        labels = marked.labels
        assert len(np.unique(np.stack([labels.image, labels.label]), axis=1).T) == len(labels.image)
        assert least <= marked.health["labels"] <= most
        assert marked.health["assigned"] == pytest.approx(marked.health["labels"] / PARTS)


def test_points_of_the_last_round_stay(planted: Planted) -> None:
    before = mark(planted)[1].labels
    planted.heights[:, 0, 2] = 0.1  # no longer detected
    lost, kept = (mark(planted, before, clusters=3 + (union is not None), union=union)[1] for union in (None, 1.0))
    assert lost.health["labels"] == 3 and kept.health["labels"] == PARTS
    assert set(parts_of(planted, kept.labels).tolist()) == set(range(PARTS))


def test_warm_clusters_keep_their_numbers(planted: Planted) -> None:
    before = mark(planted)[1].labels
    turned = Labels(**{**vars(before), "label": (before.label + 1) % PARTS})
    parts = {}
    for warm in (False, True):
        labels = mark(planted, turned, warm=warm)[1].labels
        parts[warm] = [parts_of(planted, taken(labels, labels.label == k))[0] for k in range(PARTS)]
    want = [parts_of(planted, taken(turned, turned.label == k))[0] for k in range(PARTS)]
    assert parts[True] == want != parts[False]
    few = Labels(**{**vars(before), "count": PARTS + 1})
    assert mark(planted, few, warm=True)[1].labels.count == PARTS  # of another number of clusters: anew


def test_points_that_look_like_the_background_have_no_label(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower parts lie beside the box; upper ones look like themselves, or in some images like lower ones."""
    inside, describe = planted.inside, planted.describe

    def upper(rows: np.ndarray, view: Any = PLAIN) -> Any:
        found = inside(rows, view)
        found[:, 8:] = False
        return found

    def swapped(rows: np.ndarray, view: Any = PLAIN) -> Any:
        maps = describe(rows, view)
        for i, row in enumerate(rows):
            if row < 12:
                maps[i, :, :8] = maps[i, [0, 3, 2, 1, 4, 7, 6, 5, 8, 11, 10, 9, 12], :8]
        return maps

    monkeypatch.setattr(planted, "inside", upper)
    monkeypatch.setattr(planted, "describe", swapped)
    every, some = (mark(planted, clusters=2, background=number)[1].labels for number in (None, 2))
    assert len(every.image) == 2 * len(ROWS)
    gone = {(int(image), 0) for image in ROWS[ROWS < 12]}
    left = {*zip(some.image.tolist(), parts_of(planted, some).tolist(), strict=True)}
    assert {(int(image), part) for image in ROWS for part in (0, 1)} - left == gone


def test_what_is_clustered_is_labelled(planted: Planted) -> None:
    """The images are seen once for both; another task sees them anew."""
    one, given = method(), task(planted, ROWS)
    landmarks = one.discover(given).landmarks
    seen = len(planted.asked)
    one.label(given, landmarks)
    assert len(planted.asked) == seen > 0
    one.label(task(planted, ROWS), landmarks)
    assert len(planted.asked) == 2 * seen


def test_as_many_landmarks_as_clusters(planted: Planted) -> None:
    with pytest.raises(ParamsError, match=r"^3 landmarks are asked for and .*clusters is 4: .* `landmarks: 4` in its"):
        method().discover(task(planted, ROWS, 3))
    many = PARTS * len(ROWS) + 1
    with pytest.raises(ULDError, match=f"cannot make {many} clusters of {many - 1} points"):
        method(clusters=many).discover(task(planted, ROWS, many))


def test_blocks_that_are_refused(planted: Planted) -> None:
    for changes in ({"union": 1.0}, {"warm": True}):
        with pytest.raises(ParamsError, match=r"methods\.mallis_ch5\.cluster: .*union must be null and warm false"):
            method(points=POINTS, **changes)
    one = method(points=POINTS)
    landmarks = method().discover(task(planted, ROWS)).landmarks
    with pytest.raises(ULDError, match="a generic detector's descriptors, by which the model cannot find them"):
        one.find(planted, landmarks, ROWS, PLAIN)  # type: ignore[arg-type]


@pytest.mark.parametrize("view", [PLAIN, MIRROR])
def test_finds_the_parts_that_are_detected(planted: Planted, view: Any) -> None:
    one, source = method(), task(planted, ROWS)
    landmarks = one.discover(source).landmarks
    planted.heights[45, :, 2] = 0.1
    rows = np.arange(44, 47)
    found = one.find(planted, landmarks, rows, view)  # type: ignore[arg-type]
    at = planted.to_image(rows, found.dense_xy, view)
    gap = np.linalg.norm(at[:, :, None] - planted.to_image(rows, planted.centres[rows])[:, None], axis=3)
    part = gap[0].argmin(1)
    assert sorted(part.tolist()) == list(range(PARTS)) and (gap.argmin(2) == part).all() and gap.min(2).max() < 3
    assert np.isfinite(found.score).sum() == PARTS * len(rows) - 1 and np.isnan(found.score[1, part.tolist().index(2)])


def test_training_teaches_where_and_which(planted: Planted, course: Course) -> None:
    planted.heights[7, 0, 1:] = 0.1  # one label, and fewer than two are not trained on
    labels = mark(planted)[1].labels
    head, history = train(course.head(), course.training(labels))
    first, last = history[:5].mean(), history[-5:].mean()
    assert last["detector"] < 0.7 * first["detector"] and last["descriptor"] < 0.9 * first["descriptor"]
    assert set(course.store.asked) == set(ROWS) - {7}
    again = mark(course.source(head), clusters=PARTS)[1]
    assert again.health["detections"] == pytest.approx(PARTS, abs=0.3)
    with pytest.raises(ULDError, match="round one: its labels are empty"):
        train(course.head(), course.training(taken(labels, slice(0))))
    with pytest.raises(ULDError, match="round one: no image has 9 labels"):
        train(course.head(), course.training(labels), least=9)
    with pytest.raises(ULDError, match="round one: a round needs a model to train"):
        train(course.head().base, course.training(labels))


def test_the_same_round_twice_and_a_cap_of_negatives(planted: Planted, course: Course) -> None:
    labels = mark(planted)[1].labels
    runs = [train(course.head(), course.training(labels), steps=3, negatives=n) for n in (5, 5, 6)]
    same, other = (
        all((a == b).all() for a, b in zip(runs[0][0].parameters(), one[0].parameters(), strict=True))
        for one in runs[1:]
    )
    assert same and not other
