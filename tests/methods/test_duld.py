"""D-ULD on planted parts: it finds them, keeps their numbers, labels them and trains on the labels."""

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.labels import taken
from tests.methods.conftest import MIRROR, PARTS, PLAIN, TURN, VIEWS, Course, Planted, task
from tests.training.adam import ADAM
from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base import stop
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.recentre import recentre
from uld.landmarks.seen import keep
from uld.methods import load
from uld.methods.base import Discovery, Labelled, Method, Training
from uld.methods.duld import DULD
from uld.models.base import Maps, Model
from uld.sources.views import View
from uld.training import descriptor_contrast, self_training
from uld.training.labelled import LabelledImages
from uld.training.self_training import SelfTrainingParams

TRAIN = {"steps": 40, "pairs": 4, "lr": 3e-3, "descriptor_lr": 1e-3, "optimiser": ADAM, "other_image": 0.5,
         "sigma": 1.0, "margin": 1.7,
         "negatives": 16, "min_distance": 3.0, "descriptor_weight": 1.0}  # fmt: skip
DETECT = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8, "heat_weight": 0.0}
LABEL = {"max_distance": 2.0, "dense": 0.0}
# planted parts are at right angles, 1.41 apart: only a wider margin leaves something to learn
BLOCK = {"pool": "detections", "points": 40, "max_points": 100_000, "restarts": 2, "iterations": 20,
         "over_clustering": 1, "recentre": 2, "images": 20, "detect": DETECT, "label": LABEL}  # fmt: skip
ROWS, TEST = np.arange(2, 40), np.arange(40, 50)


def method(**changes: Any) -> Method:
    kind = load("duld")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.duld.cluster"))


def train(model: Model, training: Training, **changes: Any) -> Any:
    """The model after the round, and a line a step."""
    kind = load("duld")
    return kind.train(model, training, build(kind.Train, TRAIN | changes, "methods.duld.train"))


def discover(source: Any, count: int = PARTS, previous: Labels | None = None, seed: int = 0, **other: Any) -> Discovery:
    return method(**other).discover(task(source, ROWS, count, previous, seed))


def parts_of(source: Any, landmarks: Landmarks, rows: np.ndarray = TEST, view: View = PLAIN) -> list[int]:
    """Which part each landmark stands for, -1 where it is none or not the same in all images."""
    found = method().find(source, landmarks, rows, view)
    at = source.to_image(rows, found.dense_xy, view)
    gap = np.linalg.norm(at[:, :, None] - source.to_image(rows, source.centres[rows])[:, None], axis=3)
    own = gap.argmin(2)
    steady = (own == own[0]).all(0) & (gap.min(2) < 3 * 0.75).all(0)
    return np.where(steady, own[0], -1).tolist()


def keys(labels: Labels) -> list[tuple[bool, int, int]]:
    return list(zip(labels.flipped.tolist(), labels.image.tolist(), labels.label.tolist(), strict=True))


# --- discover ---


@pytest.mark.parametrize(
    ("pool", "count", "many"), [("detections", PARTS, 1), ("pixels", PARTS + 1, 1), ("pixels", PARTS, 2)]
)
@pytest.mark.parametrize("times", [0, 3])
def test_finds_the_planted_parts(planted: Planted, pool: str, count: int, many: int, times: int) -> None:
    """One more landmark takes the background, which lies elsewhere in every view; of more clusters it is left out."""
    found = discover(planted, count, pool=pool, over_clustering=many, recentre=times)
    assert found.landmarks.centroids.shape == (count, 1 + 3 * PARTS)
    for view in VIEWS:
        slots = parts_of(planted, found.landmarks, view=view)
        assert sorted(set(slots) - {-1}) == list(range(PARTS)) and slots.count(-1) == count - PARTS
    assert (found.quality["equivariance_error"] < 0.3) == (count == PARTS)
    norms = np.linalg.norm(found.landmarks.centroids, axis=1)
    assert found.quality["centroid_norm"] == pytest.approx(norms.mean()) and 0.7 < norms.min() <= norms.max() < 1.00001
    assert {"points", "inertia", "smallest_cluster", "largest_cluster", "empty_clusters"} < set(found.quality)


def test_the_pool_is_of_both_flips(planted: Planted) -> None:
    assert discover(planted).quality["points"] == 2 * PARTS * len(ROWS)
    assert discover(planted, pool="pixels").quality["points"] == 2 * 40 * len(ROWS)
    planted.detects = False  # there are no detections to cluster
    assert discover(planted).quality["points"] == 2 * 40 * len(ROWS)


def test_only_training_images_are_asked_for(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[int] = set()
    describe = Planted.describe

    def spy(source: Planted, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
        asked.update(rows.tolist())
        return describe(source, rows, view)

    monkeypatch.setattr(Planted, "describe", spy)
    for pool in ("detections", "pixels"):
        discover(planted, pool=pool)
        assert asked == set(ROWS)


@pytest.mark.parametrize("pool", ["detections", "pixels"])
def test_the_batch_size_does_not_show(planted: Planted, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    whole = discover(planted, pool=pool)
    monkeypatch.setenv("ULD_BATCH", "7")
    again = discover(planted, pool=pool)
    np.testing.assert_allclose(again.landmarks.centroids, whole.landmarks.centroids, atol=1e-5)
    np.testing.assert_array_equal(again.landmarks.exemplar_image, whole.landmarks.exemplar_image)


@pytest.mark.parametrize("times", [1, 3])
def test_centroids_move_to_their_exemplars(planted: Planted, times: int) -> None:
    still, moved = (discover(planted, pool="pixels", images=99, recentre=n).landmarks.centroids for n in (0, times))
    kept = [keep(planted, ROWS, view) for view in (PLAIN, MIRROR)]
    np.testing.assert_allclose(moved, recentre(kept, still, times), atol=1e-3)
    assert np.abs(moved - still).max() > 0.05


def test_as_many_images_are_kept_as_asked(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[np.ndarray] = []

    def spy(source: Any, rows: np.ndarray, view: View, *, heat: bool) -> Any:
        kept.append(rows)
        return keep(source, rows, view, heat=heat)

    monkeypatch.setattr("uld.landmarks.clusters.keep", spy)
    discover(planted, images=5)
    assert len(kept) == 2 and len(kept[0]) == 5 and np.isin(kept[0], ROWS).all()
    np.testing.assert_array_equal(kept[0], np.unique(kept[1]))  # sorted, the same in both flips


class Restless(Planted):
    """In the turned view parts 0 and 3 look like each other."""

    def describe(self, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
        maps = super().describe(rows, view)
        return swapped(maps, 0, 3) if view is TURN else maps


def swapped(maps: torch.Tensor, one: int, other: int) -> torch.Tensor:
    """Descriptors with two parts in each other's place."""
    order = list(range(1 + 3 * PARTS))
    for first in (1, 1 + PARTS, 1 + 2 * PARTS):
        order[first + one], order[first + other] = first + other, first + one
    return maps[:, order]


def test_of_many_clusters_the_steadiest_stay() -> None:
    source = Restless(60)
    found = discover(source, 2, over_clustering=2)
    assert sorted(parts_of(source, found.landmarks)) == [1, 2]
    assert found.quality["equivariance_error"] < 0.1
    everything = discover(source, PARTS)
    assert everything.quality["equivariance_error"] > 3  # two of the four are half the grid away
    source.views.turned = []
    largest = discover(source, 2, over_clustering=2)  # no view tells
    assert largest.quality["equivariance_error"] == 0 and len(largest.landmarks.centroids) == 2


def test_landmarks_are_pictured_where_they_are() -> None:
    """Left parts look like right ones in the mirror: what was found there is no picture of the photograph's part."""

    class Faces(Planted):
        def describe(self, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
            maps = super().describe(rows, view)
            return swapped(swapped(maps, 0, 1), 2, 3) if view is MIRROR else maps

    source = Faces(60)
    for pool in ("detections", "pixels"):
        landmarks = discover(source, PARTS + (pool == "pixels"), pool=pool).landmarks
        slots = parts_of(source, landmarks)
        assert sorted(set(slots) - {-1}) == list(range(PARTS))
        for slot, part in enumerate(slots):
            if part >= 0:
                rows = landmarks.exemplar_image[slot]
                assert len(set(rows)) == 8 and np.isin(rows, ROWS).all()
                truth = source.to_image(rows, source.centres[rows, part][:, None])[:, 0]
                assert np.abs(landmarks.exemplar_xy[slot] - truth).max() < 3 * 1.5


def test_no_detection_at_all(planted: Planted) -> None:
    planted.heights[:] = 0.1
    with pytest.raises(ULDError, match="no point is detected in any training image: lower methods"):
        discover(planted)
    discover(planted, pool="pixels")
    planted.heights[3, VIEWS.index(MIRROR)] = 0.9
    assert discover(planted).quality["points"] == PARTS


# --- rounds ---


def renumbered(labels: Labels, order: list[int]) -> Labels:
    return replace(labels, label=np.array(order)[labels.label])


def label(source: Any, landmarks: Landmarks, previous: Labels | None = None, **changes: Any) -> Labelled:
    return method(**changes).label(task(source, ROWS, len(landmarks.centroids), previous), landmarks)


def labelled(source: Any, landmarks: Landmarks, **changes: Any) -> Labels:
    return label(source, landmarks, **changes).labels


@pytest.mark.parametrize(
    ("pool", "count", "many"), [("detections", PARTS, 1), ("pixels", PARTS + 1, 1), ("pixels", PARTS, 2)]
)
def test_landmarks_keep_their_numbers(planted: Planted, pool: str, count: int, many: int) -> None:
    changes = {"pool": pool, "over_clustering": many}
    first = discover(planted, count, **changes).landmarks
    slots = parts_of(planted, first)
    order = [2, 0, 3, 1, 4][:count]
    previous = renumbered(labelled(planted, first), order)
    for seed in range(3):
        again = discover(planted, count, previous, seed, **changes).landmarks
        now = parts_of(planted, again)
        assert [now[order[k]] for k in range(count)] == slots
    same, other = (label(planted, one, previous).health for one in (again, first))
    assert same["label_change"] < 0.01 and other["label_change"] > 0.7


def test_another_number_of_landmarks_begins_anew(planted: Planted) -> None:
    previous = labelled(planted, discover(planted).landmarks)
    for count in (PARTS - 1, PARTS + 1):
        fresh, after = (discover(planted, count, one, over_clustering=2) for one in (None, previous))
        np.testing.assert_array_equal(after.landmarks.centroids, fresh.landmarks.centroids)


@pytest.mark.parametrize("lost", [1, PARTS - 1])
@pytest.mark.parametrize("many", [1, 2])
def test_a_landmark_that_no_image_shows_starts_anew(planted: Planted, many: int, lost: int) -> None:
    first = discover(planted).landmarks
    slots = parts_of(planted, first)
    previous = labelled(planted, first)
    rest = taken(previous, previous.label != lost)
    again = discover(planted, previous=rest, over_clustering=many).landmarks
    assert parts_of(planted, again) == slots  # of all points, only those of the lost one had no cluster
    assert np.linalg.norm(again.centroids, axis=1).min() > 0.7


# --- label ---


def test_the_first_labels_are_dense_matches(planted: Planted) -> None:
    landmarks = discover(planted).landmarks
    planted.centres[:, 0] = [0, 5]  # at the border, detection and dense match meet in the cell's middle
    labels = labelled(planted, landmarks)
    assert not labels.detected.any()
    assert keys(labels) == [(flip, row, part) for flip in (False, True) for row in ROWS for part in range(PARTS)]
    at = planted.to_image(labels.image, planted.centres[labels.image])
    assert np.linalg.norm(at - labels.xy[:, None], axis=2).min(1).max() < 3 * 0.75


def test_the_worst_matches_are_no_labels(planted: Planted) -> None:
    landmarks = discover(planted).landmarks
    every, best = (labelled(planted, landmarks, label=LABEL | {"dense": least}) for least in (0.0, 0.25))
    for flip in (False, True):
        for part in range(PARTS):
            left, all_of = (one.score[(one.flipped == flip) & (one.label == part)] for one in (best, every))
            assert len(all_of) == 38 and len(left) == 28  # of 38 the quantile lies between the tenth and the eleventh
            np.testing.assert_array_equal(np.sort(left), np.sort(all_of)[10:])


def test_without_dense_matches_the_first_labels_are_detections(planted: Planted) -> None:
    landmarks = discover(planted).landmarks
    planted.heights[4, 0, 2] = planted.heights[9, 1] = 0.1
    marked = label(planted, landmarks, label={"max_distance": None, "dense": None})
    assert marked.labels.detected.all() and len(marked.labels.image) == 2 * PARTS * len(ROWS) - 5
    want = {(flip, int(row)): PARTS for flip in (False, True) for row in ROWS} | {(False, 4): 3, (True, 9): 0}
    for (flip, row), count in want.items():
        assert sum(key[:2] == (flip, row) for key in keys(marked.labels)) == count
    assert marked.health == {
        "detections": pytest.approx(PARTS - 5 / (2 * len(ROWS))),
        "without_detection": pytest.approx(1 / (2 * len(ROWS))),
        "labels": pytest.approx(PARTS - 5 / (2 * len(ROWS))),
        "labels_detected": 1.0,
    }


def test_later_labels_are_detections_and_what_is_missing(planted: Planted) -> None:
    landmarks = discover(planted).landmarks
    previous = labelled(planted, landmarks)
    planted.heights[4, 0, 2] = planted.heights[9, 1] = 0.1
    marked = label(planted, landmarks, previous)
    assert len(marked.labels.image) == 2 * PARTS * len(ROWS)
    dense = {(flip, row) for flip, row, _ in np.array(keys(marked.labels))[~marked.labels.detected].tolist()}
    assert dense == {(False, 4), (True, 9)} and (~marked.labels.detected).sum() == 5
    assert marked.health["label_change"] < 0.05
    bare = label(planted, landmarks, previous, label=LABEL | {"dense": None}).labels
    assert bare.detected.all() and len(bare.image) == 2 * PARTS * len(ROWS) - 5


# --- train ---


@pytest.fixture
def labels(planted: Planted) -> Labels:
    return labelled(planted, discover(planted).landmarks)


def weights(head: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in head.named_parameters()}


def test_training_lowers_the_loss_and_teaches_the_detector(planted: Planted, course: Course, labels: Labels) -> None:
    head, history = train(course.head(), course.training(labels))
    assert history.columns.tolist() == ["step", "loss", "detector", "descriptor"] and len(history) == 40
    first, last = history.iloc[:5].mean(), history.iloc[-5:].mean()
    assert last["detector"] < 0.7 * first["detector"] and last["descriptor"] < 0.9 * first["descriptor"]
    np.testing.assert_allclose(history["loss"], history["detector"] + history["descriptor"], rtol=1e-4)
    assert not head.training and set(course.store.asked) == set(range(60))
    health = label(course.source(head), discover(planted).landmarks, labels).health
    assert health["detections"] == pytest.approx(PARTS, abs=0.3) and health["label_change"] < 0.05


@pytest.mark.parametrize(("rate", "still"), [(0.0, True), (1e-3, False)])
def test_the_descriptors_have_a_rate_of_their_own(course: Course, labels: Labels, rate: float, still: bool) -> None:
    head = course.head()
    before = weights(head)
    head, _ = train(head, course.training(labels), descriptor_lr=rate, steps=5)
    after = weights(head)
    del before["aggregate.mixing_weights"]  # of one feature map, always 1
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (still and name.startswith("descriptor_head")), name


def test_the_weight_of_the_descriptors(course: Course, labels: Labels) -> None:
    for weight in (0.0, 7.0):
        history = train(course.head(), course.training(labels), descriptor_weight=weight, steps=2)[1]
        np.testing.assert_allclose(history["loss"], history["detector"] + weight * history["descriptor"], rtol=1e-5)
        assert (history["descriptor"] > 0.01).all()


def test_the_first_step_by_hand(course: Course, labels: Labels) -> None:
    """Squared errors of both views added, each a mean over the ROI; a mean over all pairs of descriptors."""
    head, training = course.head(), course.training(labels)
    params = build(SelfTrainingParams, TRAIN | {"sigma": 1.5, "steps": 1}, "train")
    images = LabelledImages(labels, course.views, head.maps_read())
    batch, xy, cells = self_training.draw_pairs(images, params, training.rng(0))
    with torch.no_grad():
        maps: Maps = head(batch.inputs)
    logits = maps.logits
    assert logits is not None
    y, x = np.mgrid[: head.grid, : head.grid]
    total, count = 0.0, 0
    for item, points in enumerate(xy.numpy()):
        known = points[np.isfinite(points).all(1)]  # of an image without labels none
        gap = np.min([np.full(x.shape, 1e9), *((x - a) ** 2 + (y - b) ** 2 for a, b in known)], axis=0)
        error = (1 / (1 + np.exp(-logits[item, 0].numpy())) - np.exp(-gap / (2 * 1.5**2))) ** 2
        roi = batch.inside[item].numpy()
        total, count = total + error[roi].sum(), count + roi.sum()
    terms = torch.cat(
        descriptor_contrast.terms(maps.looks, xy, cells, batch.inside, params.margin, params.min_distance)
    )
    history = self_training.train(head, training, params)[1]
    assert history["detector"][0] == pytest.approx(2 * total / count, rel=1e-4)
    assert history["descriptor"][0] == pytest.approx(float(terms.mean()), rel=1e-4)


def test_training_is_the_same_however_it_is_run(
    course: Course, labels: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(seed: int = 0) -> dict[str, torch.Tensor]:
        return weights(train(course.head(), course.training(labels, seed), steps=6)[0])

    def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(a[name], b[name]) for name in a)

    whole = run()
    for workers in ("0", "2"):
        monkeypatch.setenv("ULD_WORKERS", workers)
        assert same(run(), whole)
    assert not same(run(seed=1), whole)
    contrast, calls = self_training.contrast, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return contrast(*arguments)

    monkeypatch.setattr(self_training, "contrast", interrupted)
    with pytest.raises(stop.Interrupted, match="round one saved at step 3 of 6"):
        run()
    assert same(run(), whole) and len(calls) == 6


def test_what_a_round_cannot_train_on(course: Course, labels: Labels) -> None:
    with pytest.raises(
        ULDError, match="round one: a round needs a model to train: start it from a start of model heads"
    ):
        train(course.head().base, course.training(labels))
    with pytest.raises(ULDError, match="round one: its labels are empty: lower methods"):
        train(course.head(), course.training(taken(labels, slice(0))))
    head = course.head()
    torch.nn.init.constant_(list(head.descriptor_head.parameters())[-1], 50.0)
    with pytest.raises(ULDError, match="round one: all descriptors of an image have become alike"):
        train(head, course.training(labels))


# --- find ---


@pytest.mark.parametrize("view", VIEWS)
def test_finds_what_is_detected_and_the_best_of_the_rest(planted: Planted, view: View) -> None:
    landmarks = discover(planted).landmarks
    slots = parts_of(planted, landmarks)
    planted.heights[45, VIEWS.index(view), 2] = 0.1
    found: Found = method().find(planted, landmarks, TEST, view)
    there = np.isfinite(found.xy).all(2)
    assert there.sum() == PARTS * len(TEST) - 1 and not there[5, slots.index(2)]
    truth = planted.to_image(TEST, planted.centres[TEST])[:, slots]
    at = planted.to_image(TEST, found.xy, view)
    assert np.abs(at - truth)[there].max() < 3 * 0.2
    assert np.abs(planted.to_image(TEST, found.dense_xy, view) - truth).max() < 3 * 0.75
    assert (found.dense_score > 0.9).all() and np.array_equal(np.isfinite(found.score), there)


def test_finds_with_a_model_that_does_not_detect(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    landmarks = discover(planted).landmarks
    planted.detects = False
    monkeypatch.delattr(Planted, "maps")
    assert sorted(parts_of(planted, landmarks)) == list(range(PARTS))
    found = method().find(planted, landmarks, TEST, PLAIN)
    np.testing.assert_array_equal(found.xy, found.dense_xy)  # each wins its own part's cells
    assert isinstance(method(), DULD)
