"""Pseudo-labels by hand: which detection is a landmark, when the dense match stands in, and what is reported."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.methods.conftest import GRID, MIRROR, PARTS, PLAIN, Planted
from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.cluster.spool import Spool
from uld.landmarks import match
from uld.landmarks.detect import DetectParams, detect
from uld.landmarks.label import LabelParams, dense, detections, health, mark, of_pool, table, to_labels
from uld.sources.views import View

DETECT = DetectParams(1, 0.3, 0, 8, 0.0)
NAN = np.nan


# --- marks ---


def centroids_of(planted: Planted) -> np.ndarray:
    """The middle of each part, of the first image."""
    y, x = np.rint(planted.centres[0]).astype(int).T[::-1]
    return np.asarray(planted.describe(np.array([0]), PLAIN)[0, :, y, x].T.numpy())


@pytest.mark.parametrize("view", [PLAIN, MIRROR], ids=["plain", "mirror"])
@pytest.mark.parametrize("batch", ["3", "32"])
def test_marks_of_planted_parts(monkeypatch: pytest.MonkeyPatch, view: View, batch: str) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    planted = Planted(12)
    rows = np.array([2, 3, 5, 7, 9, 10, 11])
    planted.heights[5, int(view.flipped), 1] = 0.29
    planted.heights[7, int(view.flipped)] = 0
    centroids = centroids_of(planted)
    # most similar to the first part, whose cells another one wins: it gets background
    background = planted.describe(rows[:1], PLAIN)[0, :, 0, 0].numpy()
    centroids = np.concatenate([centroids, 0.6 * centroids[:1] + 0.5 * background])
    marked = mark(planted, rows, view, centroids, DETECT)
    assert marked.points is not None and marked.points.tolist() == [4, 4, 3, 0, 4, 4, 4]
    seen = np.isfinite(marked.score)
    assert seen.sum() == marked.points.sum() and not seen[2, 1] and not seen[3].any()
    truth = planted.to_cells(rows, planted.to_image(rows, planted.centres[rows], PLAIN), view)
    assert np.abs(marked.xy[:, :4] - truth)[seen[:, :4]].max() < 0.12 and not seen[:, 4].any()
    assert np.abs(marked.dense_xy[:, :4] - truth).max() < 0.6 and (marked.dense_score[:, :4] > 0.95).all()
    shown = planted.describe(rows, view), planted.inside(rows, view), centroids
    whole, anywhere = match.dense(*shown).found(), match.dense(*shown, anywhere=True).found()
    assert np.abs(whole.dense_xy - anywhere.dense_xy)[:, 4].max() > 2
    np.testing.assert_allclose(marked.dense_xy, whole.dense_xy, atol=1e-6)
    np.testing.assert_allclose(marked.dense_score, whole.dense_score, atol=1e-6)


def test_dense_matches_lean_to_the_heat() -> None:
    """Two cells look alike, and one of them is hot: it is taken, if heat counts enough."""
    planted = Planted(6)
    rows = np.arange(6)
    centroids = centroids_of(planted)
    leaning = replace(DETECT, heat_weight=0.5)
    found = {params.heat_weight: mark(planted, rows, PLAIN, centroids, params) for params in (DETECT, leaning)}
    gap = {heat: np.abs(one.dense_xy - planted.centres[rows]).max() for heat, one in found.items()}
    assert gap[0.5] < 0.15 < gap[0.0]  # the look is that of a disc, the heat peaks at its centre
    np.testing.assert_array_equal(found[0.5].xy, found[0.0].xy)
    assert (found[0.5].dense_score > 0.9).all()
    for params in (DETECT, leaning):
        np.testing.assert_array_equal(
            dense(planted, rows, PLAIN, centroids, params), found[params.heat_weight].dense_xy
        )


def test_a_match_without_heat_asks_for_no_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(3)
    monkeypatch.setattr(planted, "maps", None)
    assert dense(planted, np.arange(3), MIRROR, centroids_of(planted), DETECT).shape == (3, PARTS, 2)


def test_cells_without_heat_are_alike() -> None:
    heat = torch.tensor([[[[0.0, 1e-6]], [[1.0, 0.1]]], [[[0.0, 1e-6]], [[0.0, 0.0]]]])
    prior = replace(DETECT, heat_weight=2.0).prior(heat)
    torch.testing.assert_close(prior[:, 0], 2 * torch.tensor([[[1.0, 0.1]], [[1e-4, 1e-4]]]).log())


def test_of_several_heat_maps_the_highest_counts() -> None:
    planted, many = Planted(5), Planted(5, PARTS)
    one, other = (mark(source, np.arange(5), PLAIN, centroids_of(planted), DETECT) for source in (planted, many))
    np.testing.assert_array_equal(one.xy, other.xy)


# --- detections ---


@pytest.mark.parametrize("batch", ["3", "32"])
def test_the_pool_holds_the_detections_of_each_flip(monkeypatch: pytest.MonkeyPatch, batch: str) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    planted = Planted(12)
    planted.heights[4, 1, 2] = planted.heights[5, 0] = 0
    rows = np.array([2, 3, 4, 5, 9, 10, 11])
    found = detections(planted, rows, DETECT)
    assert isinstance(found.descriptor, Spool)
    first = 0
    for view in (PLAIN, MIRROR):
        for row in rows:
            one = np.array([row])
            maps = planted.maps(one, view)
            points = detect(maps.looks, maps.heat.amax(1), planted.inside(one, view), DETECT)
            mine = slice(first, first + len(points.image))
            assert (found.image[mine] == row).all() and (found.flipped[mine] == view.flipped).all()
            np.testing.assert_array_equal(found.descriptor[mine], points.descriptor)
            np.testing.assert_array_equal(found.xy[mine], planted.to_image(one, points.xy[None], view)[0])
            first = mine.stop
    assert first == len(found.image) == len(found.descriptor) == 2 * PARTS * len(rows) - 5
    assert found.per_image(planted, rows).tolist() == [[4, 4, 4, 0, 4, 4, 4], [4, 4, 3, 4, 4, 4, 4]]


def test_no_detection_at_all() -> None:
    planted = Planted(3)
    planted.heights[:] = 0.1
    with pytest.raises(ULDError, match=r"no point is detected .*: lower methods.\*.cluster.detect.threshold or raise"):
        detections(planted, np.arange(3), DETECT)


def test_detections_as_labels_are_scored_by_their_centroid() -> None:
    planted, rows = Planted(5), np.array([1, 3])
    points, centroids = detections(planted, rows, DETECT), 2 * centroids_of(planted)
    label = np.arange(len(points.image)) % PARTS
    labels = of_pool(points, label, centroids)
    x = points.descriptor[np.arange(len(label))]
    np.testing.assert_allclose(labels.score, (x * centroids[label]).sum(1) / np.linalg.norm(centroids[label], axis=1))
    for found, want in zip(
        (labels.image, labels.flipped, labels.label, labels.xy),
        (points.image, points.flipped, label, points.xy),
        strict=True,
    ):
        np.testing.assert_array_equal(found, want)
    assert labels.detected.all() and labels.own == {}


# --- labels ---


ROWS = np.array([1, 2, 4, 6, 7])


def marks() -> Found:
    """Five images, two landmarks: the first is detected 0, 2, a bit more than 2, and 5 cells beside, and not at all."""
    dense_xy = np.tile(np.array([[4.0, 4.0], [9.0, 5.0]], np.float32), (5, 1, 1))
    xy = np.full((5, 2, 2), NAN, np.float32)
    xy[:4, 0] = [[4, 4], [4, 6], [6.01, 4], [1, 8]]
    score = np.where(np.isfinite(xy[..., 0]), 0.8, NAN).astype(np.float32)
    dense_score = np.array([[0.5, 0.1], [0.4, 0.2], [0.3, 0.3], [0.2, 0.4], [0.1, 0.5]], np.float32)
    return Found(xy, score, dense_xy, dense_score, np.array([1, 1, 3, 1, 0]))


UNSEEN = np.full((5, 2), NAN, np.float32)


def plain(flips: int = 1) -> Planted:
    """A source with so many flips."""
    source = Planted(9)
    source.views.flips = source.views.flips[:flips]
    return source


def keys(labels: Labels, flipped: bool = False) -> list[tuple[int, int, bool]]:
    """Image, landmark and whether it is a detection."""
    mine = labels.flipped == flipped
    return list(zip(*(column[mine].tolist() for column in (labels.image, labels.label, labels.detected)), strict=True))


@pytest.mark.parametrize(
    ("distance", "there"), [(None, [1, 2, 4, 6]), (5.0, [1, 2, 4, 6]), (4.9, [1, 2, 4]), (2.0, [1, 2]), (1.9, [1])]
)
def test_detections_near_the_dense_match_are_labels(distance: float | None, there: list[int]) -> None:
    labels = to_labels(plain(), ROWS, [marks()], LabelParams(distance, None))
    assert keys(labels) == [(image, 0, True) for image in there]
    labels = to_labels(plain(), ROWS, [marks()], LabelParams(distance, None), detections=False)
    assert keys(labels) == []


@pytest.mark.parametrize(
    ("share", "first", "second"),
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
    share: float | None, first: list[int], second: list[int]
) -> None:
    want = sorted([(image, 0, False) for image in first] + [(image, 1, False) for image in second])
    unseen = to_labels(plain(), ROWS, [replace(marks(), score=UNSEEN)], LabelParams(None, share))
    ignored = to_labels(plain(), ROWS, [marks()], LabelParams(None, share), detections=False)
    for labels in (unseen, ignored):
        assert keys(labels) == want
        np.testing.assert_array_equal(
            labels.score, marks().dense_score[np.searchsorted(ROWS, labels.image), labels.label]
        )


def test_dense_matches_stand_in_where_no_detection_is_a_label() -> None:
    source = Planted(9)
    labels = to_labels(source, ROWS, [marks(), marks()], LabelParams(2.0, 0.5))
    for flipped in (False, True):
        assert keys(labels, flipped) == [
            (1, 0, True), (2, 0, True), (4, 0, False), (4, 1, False), (6, 1, False), (7, 1, False),
        ]  # fmt: skip
    assert labels.flipped.tolist() == [False] * 6 + [True] * 6  # sorted by flip
    np.testing.assert_allclose(labels.score[:6], [0.8, 0.8, 0.3, 0.3, 0.4, 0.5])
    cells = np.array([[4, 4], [4, 6], [4, 4], [9, 5], [9, 5], [9, 5]], np.float32)
    for view, part in ((PLAIN, slice(0, 6)), (MIRROR, slice(6, 12))):
        want = source.to_image(labels.image[part], cells[:, None], view)[:, 0]
        np.testing.assert_allclose(labels.xy[part], want, atol=1e-4)
    np.testing.assert_allclose(labels.xy[[1, 7]], [[4 * 3 + 2, 6 * 3 + 2], [11 * 3 + 2, 6 * 3 + 2]], atol=1e-4)
    columns = (labels.image, labels.flipped, labels.label, labels.xy, labels.score, labels.detected)
    assert [value.dtype.str for value in columns] == ["<i8", "|b1", "<i8", "<f4", "<f4", "|b1"]


def test_each_flip_has_its_own_worst() -> None:
    """A flip that matches worse as a whole keeps as many."""
    high = replace(marks(), score=UNSEEN)
    low = replace(high, dense_score=high.dense_score / 10)
    labels = to_labels(Planted(9), ROWS, [high, low], LabelParams(None, 0.5))
    assert [len(keys(labels, flipped)) for flipped in (False, True)] == [6, 6]


def test_no_label_at_all() -> None:
    labels = to_labels(plain(), ROWS, [marks()], LabelParams(None, None), detections=False)
    columns = (labels.image, labels.flipped, labels.label, labels.xy, labels.score, labels.detected)
    assert [len(value) for value in columns] == [0] * 6 and labels.count == 2
    assert health(plain(), ROWS, [marks()], labels, None)["labels_detected"] == 0
    before = to_labels(plain(), ROWS, [marks()], LabelParams(None, None))
    assert "label_change" not in health(plain(), ROWS, [marks()], labels, before)


# --- tables ---


def some(*lines: tuple[int, int, int, float, float]) -> Labels:
    """Lines of image, flipped, label, x, y."""
    image, flipped, number, x, y = map(np.array, zip(*lines, strict=True))
    xy = np.stack([x, y], 1).astype(np.float32)
    return Labels(image, flipped > 0, number, xy, np.ones(len(x), np.float32), np.ones(len(x), bool), 4)


def test_labels_as_a_table() -> None:
    labels = some((3, 0, 1, 30, 31), (5, 0, 0, 50, 51), (8, 0, 2, 80, 81), (3, 1, 1, 130, 131), (5, 1, 2, 150, 151))
    found = table(labels, np.array([3, 5, 6]), False, 3)
    want = np.full((3, 3, 2), NAN, np.float32)
    want[0, 1], want[1, 0] = (30, 31), (50, 51)
    np.testing.assert_array_equal(found, want)
    want = np.full((1, 4, 2), NAN, np.float32)
    want[0, 2] = (150, 151)
    np.testing.assert_array_equal(table(labels, np.array([5]), True, 4), want)
    assert np.isnan(table(labels, np.array([6, 8]), True, 4)).all()


# --- health ---


def test_counts_by_hand() -> None:
    other = replace(marks(), points=np.array([0, 0, 2, 0, 4]))
    labels = to_labels(Planted(9), ROWS, [marks(), other], LabelParams(2.0, 0.5))
    found = health(Planted(9), ROWS, [marks(), other], labels, None)
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
    found = health(plain(), ROWS, [marks()], after, before)
    assert found["label_change"] == pytest.approx(1 / 3)
    # in a mirrored view distances are the same
    after = replace(after, flipped=np.ones_like(after.flipped))
    before = replace(before, flipped=~before.flipped)
    assert health(plain(2), ROWS, [marks(), marks()], after, before)["label_change"] == pytest.approx(1 / 3)


def test_labels_that_all_changed_flips_or_images() -> None:
    before = some((1, 0, 0, 30, 30), (2, 0, 1, 30, 30))
    after = some((1, 0, 1, 30, 30), (2, 0, 0, 30, 30))
    assert health(plain(), ROWS, [marks()], after, before)["label_change"] == 1.0
    turned = replace(before, flipped=~before.flipped)
    assert health(plain(2), ROWS, [marks(), marks()], turned, before)["label_change"] == 1.0
    assert health(plain(), ROWS, [marks()], before, before)["label_change"] == 0.0


def test_the_grid_of_the_tests() -> None:
    views = Planted(1).views
    assert GRID == 16 and views.flips == [PLAIN, MIRROR]
