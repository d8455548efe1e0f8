"""Pseudo-labels by hand: which detection is a landmark, when the dense match stands in, and what is reported."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.conftest import GRID, PARTS, Planted
from uld.artifacts.labels import Labels
from uld.cluster.spool import Spool
from uld.geometry import coords, views
from uld.landmarks import assign, label
from uld.landmarks.detect import DetectParams, Points, detect
from uld.landmarks.label import Marks, exemplars, hands, health, mark, match, pool, table, to_labels

DETECT = DetectParams(1, 0.3, 0, 8, 0.0)
NAN = np.nan


def bank(*views: tuple[bool, float, float]) -> Any:
    return SimpleNamespace(
        views=np.stack([coords.view(32, *view) for view in views]), mirrored=np.array([view[0] for view in views])
    )


def test_views_by_what_they_are() -> None:
    turns = (False, 15, 1), (True, 0, 1.1), (True, 15, 1)
    source = bank((False, 0, 1), *turns, (True, 0, 1), (False, 0, 0.9), (True, 0, 1))
    assert views.mirror(source.views) == [4] and hands(source) == [0, 4]
    assert views.turned(source.mirrored) == [1, 5]
    poor = bank((False, 0, 1), (True, 180, 1))
    assert views.mirror(poor.views) == [] and hands(poor) == [0] and views.turned(poor.mirrored) == []


# --- exemplars ---


@pytest.mark.parametrize("seed", range(4))
def test_exemplars_equal_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, 4, 25))
    x = rng.normal(size=(25, 3)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    xy = rng.uniform(0, 9, (25, 2)).astype(np.float32)
    centroids = (rng.normal(size=(6, 3)) * rng.uniform(0.1, 1, (6, 1))).astype(np.float32)
    gap = ((x[:, None] - centroids) ** 2).sum(2)
    found, score = exemplars(Points(image, xy, np.ones(25, np.float32), x), centroids, 5)
    assert found.shape == (5, 6, 2) and score.shape == (5, 6)
    for i in range(5):
        for k in range(6):
            own = [p for p in range(25) if image[p] == i and gap[p].argmin() == k]
            if own:
                best = min(own, key=lambda p: gap[p, k])
                np.testing.assert_array_equal(found[i, k], xy[best])
                assert score[i, k] == pytest.approx(x[best] @ centroids[k] / np.linalg.norm(centroids[k]), abs=1e-6)
            else:
                assert np.isnan(found[i, k]).all() and np.isnan(score[i, k])
    assert 5 < np.isfinite(score).sum() < 24


def test_exemplars_of_nothing() -> None:
    empty = Points(np.empty(0, np.int64), *(np.empty(shape, np.float32) for shape in ((0, 2), (0,), (0, 3))))
    found, score = exemplars(empty, np.eye(3, dtype=np.float32), 2)
    assert found.shape == (2, 3, 2) and np.isnan(found).all() and np.isnan(score).all()


# --- marks ---


def centroids_of(planted: Planted) -> np.ndarray:
    """The middle of each part, of the first image."""
    y, x = np.rint(planted.centres[0]).astype(int).T[::-1]
    return np.asarray(planted.describe(np.array([0]))[0, :, y, x].T.numpy())


@pytest.mark.parametrize("view", [0, 1])
@pytest.mark.parametrize("batch", ["3", "32"])
def test_marks_of_planted_parts(monkeypatch: pytest.MonkeyPatch, view: int, batch: str) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    planted = Planted(12)
    rows = np.array([2, 3, 5, 7, 9, 10, 11])
    planted.heights[5, view, 1] = 0.29
    planted.heights[7, view] = 0
    centroids = centroids_of(planted)
    # most similar to the first part, whose cells another one wins: it gets background
    background = planted.describe(rows[:1])[0, :, 0, 0].numpy()
    centroids = np.concatenate([centroids, 0.6 * centroids[:1] + 0.5 * background])
    marked = mark(planted, rows, view, centroids, DETECT)
    assert marked.view == view and marked.rows is rows
    assert marked.points.tolist() == [4, 4, 3, 0, 4, 4, 4]
    seen = np.isfinite(marked.score)
    assert seen.sum() == marked.points.sum() and not seen[2, 1] and not seen[3].any()
    truth = planted.to_cells(rows, planted.to_image(rows, planted.centres[rows]), view)
    assert np.abs(marked.xy[:, :4] - truth)[seen[:, :4]].max() < 0.12 and not seen[:, 4].any()
    assert np.abs(marked.dense_xy[:, :4] - truth).max() < 0.6 and (marked.dense_score[:, :4] > 0.95).all()
    whole = assign.dense(planted.describe(rows, view), planted.inside(rows, view), centroids, True)
    assert np.abs(whole.best_xy - whole.dense_xy)[:, 4].max() > 2
    np.testing.assert_allclose(marked.dense_xy, whole.best_xy, atol=1e-6)
    np.testing.assert_allclose(marked.dense_score, whole.best_score, atol=1e-6)


def test_dense_matches_lean_to_the_heat() -> None:
    """Two cells look alike, and one of them is hot: it is taken, if heat counts enough."""
    planted = Planted(6)
    rows = np.arange(6)
    centroids = centroids_of(planted)
    leaning = replace(DETECT, heat=0.5)
    found = {params.heat: mark(planted, rows, 0, centroids, params) for params in (DETECT, leaning)}
    gap = {heat: np.abs(one.dense_xy - planted.centres[rows]).max() for heat, one in found.items()}
    assert gap[0.5] < 0.15 < gap[0.0]  # the look is that of a disc, the heat peaks at its centre
    np.testing.assert_array_equal(found[0.5].xy, found[0.0].xy)
    assert (found[0.5].dense_score > 0.9).all()
    for params in (DETECT, leaning):
        np.testing.assert_array_equal(match(planted, rows, 0, centroids, params), found[params.heat].dense_xy)


def test_a_match_without_heat_asks_for_no_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(3)
    monkeypatch.setattr(planted, "maps", None)
    assert match(planted, np.arange(3), 1, centroids_of(planted), DETECT).shape == (3, PARTS, 2)


def test_cells_without_heat_are_alike() -> None:
    heat = torch.tensor([[[[0.0, 1e-6]], [[1.0, 0.1]]], [[[0.0, 1e-6]], [[0.0, 0.0]]]])
    prior = replace(DETECT, heat=2.0).prior(heat)
    torch.testing.assert_close(prior[:, 0], 2 * torch.tensor([[[1.0, 0.1]], [[1e-4, 1e-4]]]).log())


def test_of_several_heat_maps_the_highest_counts() -> None:
    planted, many = Planted(5), Planted(5, PARTS)
    one, other = (mark(source, np.arange(5), 0, centroids_of(planted), DETECT) for source in (planted, many))
    np.testing.assert_array_equal(one.xy, other.xy)


# --- pool ---


@pytest.mark.parametrize("batch", ["3", "32"])
def test_the_pool_holds_the_detections_of_each_hand(monkeypatch: pytest.MonkeyPatch, batch: str) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    planted = Planted(12)
    planted.heights[4, 1, 2] = planted.heights[5, 0] = 0
    rows = np.array([2, 3, 4, 5, 9, 10, 11])
    found = pool(planted, rows, DETECT)
    assert isinstance(found.descriptor, Spool)
    first = 0
    for view in (0, 1):
        for row in rows:
            one = np.array([row])
            points = detect(*(maps if i == 0 else maps.amax(1) for i, maps in enumerate(planted.maps(one, view))),
                            planted.inside(one, view), DETECT)  # fmt: skip
            mine = slice(first, first + len(points.image))
            assert (found.image[mine] == row).all() and (found.view[mine] == view).all()
            np.testing.assert_array_equal(found.descriptor[mine], points.descriptor)
            np.testing.assert_array_equal(found.xy[mine], planted.to_image(one, points.xy[None], view)[0])
            first = mine.stop
    assert first == len(found.image) == len(found.descriptor) == 2 * PARTS * len(rows) - 5
    assert found.per_image(planted, rows).tolist() == [[4, 4, 4, 0, 4, 4, 4], [4, 4, 3, 4, 4, 4, 4]]


# --- labels ---


def marks(view: int = 0) -> Marks:
    """Five images, two landmarks: the first is detected 0, 2, a bit more than 2, and 5 cells beside, and not at all."""
    dense_xy = np.tile(np.array([[4.0, 4.0], [9.0, 5.0]], np.float32), (5, 1, 1))
    xy = np.full((5, 2, 2), NAN, np.float32)
    xy[:4, 0] = [[4, 4], [4, 6], [6.01, 4], [1, 8]]
    score = np.where(np.isfinite(xy[..., 0]), 0.8, NAN).astype(np.float32)
    dense_score = np.array([[0.5, 0.1], [0.4, 0.2], [0.3, 0.3], [0.2, 0.4], [0.1, 0.5]], np.float32)
    return Marks(np.array([1, 2, 4, 6, 7]), view, dense_xy, dense_score, xy, score, np.array([1, 1, 3, 1, 0]))


def keys(labels: Labels, view: int = 0) -> list[tuple[int, int, bool]]:
    """Image, landmark and whether it is a detection."""
    mine = labels.view == view
    return list(zip(*(column[mine].tolist() for column in (labels.image, labels.label, labels.detected)), strict=True))


@pytest.mark.parametrize(
    ("join", "there"),
    [(None, [1, 2, 4, 6]), (5.0, [1, 2, 4, 6]), (4.9, [1, 2, 4]), (2.0, [1, 2]), (1.9, [1]), (-1, [])],
)
def test_detections_near_the_dense_match_are_labels(join: float | None, there: list[int]) -> None:
    labels = to_labels(Planted(9), [marks()], join, None)
    assert keys(labels) == [(image, 0, True) for image in there]


@pytest.mark.parametrize(
    ("fill", "first", "second"),
    [
        (0.0, [1, 2, 4, 6, 7], [1, 2, 4, 6, 7]),
        (0.25, [1, 2, 4, 6], [2, 4, 6, 7]),  # the one at the quantile stays
        (0.3, [1, 2, 4], [4, 6, 7]),
        (0.5, [1, 2, 4], [4, 6, 7]),
        (1.0, [1], [7]),
        (None, [], []),
    ],
)
def test_dense_matches_but_the_worst_share_of_each_landmark(
    fill: float | None, first: list[int], second: list[int]
) -> None:
    labels = to_labels(Planted(9), [replace(marks(), score=np.full((5, 2), NAN, np.float32))], None, fill)
    assert keys(labels) == sorted([(image, 0, False) for image in first] + [(image, 1, False) for image in second])


def test_dense_matches_stand_in_where_no_detection_is_a_label() -> None:
    source = Planted(9)
    labels = to_labels(source, [marks(0), marks(1)], 2.0, 0.5)
    for view in (0, 1):
        assert keys(labels, view) == [
            (1, 0, True), (2, 0, True), (4, 0, False), (4, 1, False), (6, 1, False), (7, 1, False),
        ]  # fmt: skip
    assert labels.view.tolist() == [0] * 6 + [1] * 6  # sorted by view
    np.testing.assert_allclose(labels.score[:6], [0.8, 0.8, 0.3, 0.3, 0.4, 0.5])
    cells = np.array([[4, 4], [4, 6], [4, 4], [9, 5], [9, 5], [9, 5]], np.float32)
    for view, part in ((0, slice(0, 6)), (1, slice(6, 12))):
        want = source.to_image(labels.image[part], cells[:, None], view)[:, 0]
        np.testing.assert_allclose(labels.xy[part], want, atol=1e-4)
    np.testing.assert_allclose(labels.xy[[1, 7]], [[4 * 3 + 2, 6 * 3 + 2], [11 * 3 + 2, 6 * 3 + 2]], atol=1e-4)
    assert [value.dtype.str for value in vars(labels).values() if value is not None] == [
        "<i8",
        "<i8",
        "<i8",
        "<f4",
        "<f4",
        "|b1",
    ]


def test_each_hand_has_its_own_worst() -> None:
    """A hand that matches worse as a whole keeps as many."""
    low = replace(marks(1), dense_score=marks().dense_score / 10, score=np.full((5, 2), NAN, np.float32))
    labels = to_labels(Planted(9), [replace(low, view=0, dense_score=marks().dense_score), low], None, 0.5)
    assert [len(keys(labels, view)) for view in (0, 1)] == [6, 6]


def test_no_label_at_all() -> None:
    labels = to_labels(Planted(9), [marks()], -1, None)
    assert [len(value) for value in vars(labels).values() if value is not None] == [0] * 6
    assert health(Planted(9), [marks()], labels, None)["labels_detected"] == 0
    assert "label_change" not in health(Planted(9), [marks()], labels, to_labels(Planted(9), [marks()], None, None))


# --- tables ---


def some(*lines: tuple[int, int, int, float, float]) -> Labels:
    """Lines of image, view, label, x, y."""
    image, view, number, x, y = map(np.array, zip(*lines, strict=True))
    xy = np.stack([x, y], 1).astype(np.float32)
    return Labels(image, view, number, xy, np.ones(len(x), np.float32), np.ones(len(x), bool))


def test_labels_as_a_table() -> None:
    labels = some((3, 0, 1, 30, 31), (5, 0, 0, 50, 51), (8, 0, 2, 80, 81), (3, 1, 1, 130, 131), (5, 1, 2, 150, 151))
    found = table(labels, np.array([3, 5, 6]), 0, 3)
    want = np.full((3, 3, 2), NAN, np.float32)
    want[0, 1], want[1, 0] = (30, 31), (50, 51)
    np.testing.assert_array_equal(found, want)
    want = np.full((1, 4, 2), NAN, np.float32)
    want[0, 2] = (150, 151)
    np.testing.assert_array_equal(table(labels, np.array([5]), 1, 4), want)
    assert np.isnan(table(labels, np.array([5]), 2, 4)).all()


# --- health ---


def test_counts_by_hand() -> None:
    other = replace(marks(1), points=np.array([0, 0, 2, 0, 4]))
    labels = to_labels(Planted(9), [marks(), other], 2.0, 0.5)
    found = health(Planted(9), [marks(), other], labels, None)
    assert found == {
        "detections": pytest.approx(12 / 10),
        "without_detection": pytest.approx(4 / 10),
        "labels": pytest.approx(12 / 10),
        "labels_detected": pytest.approx(4 / 12),
    }


def test_labels_that_moved() -> None:
    """Cells are 3 pixels: of three labels in both rounds one moved by 2 cells and one by more; the others are new."""
    before = some((1, 0, 0, 30, 30), (1, 0, 1, 30, 30), (2, 0, 0, 30, 30), (4, 0, 1, 30, 30), (1, 1, 0, 30, 30))
    after = some((1, 0, 0, 30, 36), (1, 0, 1, 34.3, 34.3), (2, 0, 0, 30, 30), (2, 0, 1, 9, 9), (6, 0, 3, 9, 9))
    found = health(Planted(9), [marks()], after, before)
    assert found["label_change"] == pytest.approx(1 / 3)
    # in a mirrored view distances are the same
    after = replace(after, view=np.ones_like(after.view))
    before = replace(before, view=1 - before.view)
    assert health(Planted(9), [marks(1)], after, before)["label_change"] == pytest.approx(1 / 3)
    assert health(Planted(9), [marks(0), marks(1)], after, before)["label_change"] == pytest.approx(1 / 3)


def test_labels_that_all_changed_hands_or_images() -> None:
    before = some((1, 0, 0, 30, 30), (2, 0, 1, 30, 30))
    assert health(Planted(9), [marks()], some((1, 0, 1, 30, 30), (2, 0, 0, 30, 30)), before)["label_change"] == 1.0
    assert health(Planted(9), [marks()], before, before)["label_change"] == 0.0


def test_the_grid_of_the_tests() -> None:
    assert GRID == 16 and label.hands(Planted(1)) == [0, 1] and views.turned(Planted(1).mirrored) == [2]
