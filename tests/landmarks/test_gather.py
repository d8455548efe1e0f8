"""What the first stage of chapter 5 clusters: detections, points of the last round, and no background."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.conftest import GRID, PARTS, PLAIN, Planted, task
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.cluster.kmeans import KMeansParams
from uld.landmarks import label
from uld.landmarks.detect import PeakParams, Points
from uld.landmarks.gather import Memory, beside, discovery, foreground, gather, united
from uld.landmarks.label import Pool
from uld.landmarks.seen import look

DETECT = PeakParams(1, 0.3, 0, 8)
ROWS = np.arange(2, 12)
KMEANS = KMeansParams(1000, 2, 10)


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", "4")


@pytest.fixture
def few() -> Planted:
    return Planted(14)


def at_parts(source: Planted, rows: np.ndarray, part: np.ndarray, shift: float = 0.0) -> Labels:
    """Labels of these parts of the images, `shift` cells to the right of the parts' centres."""
    image, slot = np.repeat(rows, len(part)), np.tile(part, len(rows))
    cells = source.centres[image, slot] + np.array([shift, 0], np.float32)
    xy = source.to_image(image, cells[:, None])[:, 0]
    there = np.ones(len(image), bool)
    return Labels(image, ~there, slot, xy, there.astype(np.float32), there, PARTS)


def points_of(*images: list[tuple[float, float]], score: float = 0.5) -> Points:
    image = np.repeat(np.arange(len(images)), [len(one) for one in images])
    xy = np.array([at for one in images for at in one], np.float32).reshape(-1, 2)
    return Points(image, xy, np.full(len(image), score, np.float32), np.column_stack([xy, xy]).astype(np.float32))


def test_old_points_win_within_the_radius() -> None:
    old = points_of([(2, 2), (8, 8)], [], [(5, 5)], score=0.1)
    new = points_of([(2.6, 2.8), (2.7, 2.8), (8, 9.01)], [(5, 5)], [], [(1, 1)])
    found = united(new, old, 1.0)
    assert found.image.tolist() == [0, 0, 0, 0, 1, 2, 3]
    want = [(2, 2), (8, 8), (2.7, 2.8), (8, 9.01), (5, 5), (5, 5), (1, 1)]
    np.testing.assert_allclose(found.xy, np.array(want, np.float32))
    np.testing.assert_allclose(found.descriptor[:, 2:], found.xy)
    assert found.score.tolist() == pytest.approx([0.1, 0.1, 0.5, 0.5, 0.5, 0.1, 0.5])
    assert len(united(new, points_of([]), 9).image) == 5 and len(united(points_of([]), old, 9).image) == 3
    assert not len(united(points_of([]), points_of([]), 1).image)


def test_union_equals_a_plain_loop() -> None:
    draw = np.random.default_rng(1)
    old, new = (
        points_of(*(draw.uniform(0, 9, (n, 2)).tolist() for n in many)) for many in ([4, 0, 7, 2], [6, 5, 0, 9])
    )
    want = [(int(i), *xy) for i, xy in zip(old.image, old.xy.tolist(), strict=True)]
    for i, xy in zip(new.image, new.xy, strict=True):
        if all(np.linalg.norm(xy - other) > 1.5 for other in old.xy[old.image == i]):
            want.append((int(i), *xy.tolist()))
    found = united(new, old, 1.5)
    assert len(old.image) < len(want) < len(old.image) + len(new.image)
    mine = [(int(i), *xy) for i, xy in zip(found.image, found.xy.tolist(), strict=True)]
    assert mine == sorted(want, key=lambda one: one[0])


def test_detections_of_the_images_as_they_are(few: Planted) -> None:
    found = gather(few, ROWS, PLAIN, DETECT, None, 1.0)  # type: ignore[arg-type]
    want = label.detections(few, ROWS, DETECT)  # type: ignore[arg-type]
    plain = ~want.flipped
    assert found.means is None and not found.points.flipped.any()
    for name in ("image", "xy"):
        np.testing.assert_array_equal(getattr(found.points, name), getattr(want, name)[plain])
    np.testing.assert_array_equal(found.points.descriptor[:], want.descriptor[plain])


def test_points_of_the_last_round_persist(few: Planted) -> None:
    """One part is no longer detected; of another the old point lies beside the new one, or too far from it."""
    few.heights[:, 0, 1] = 0.1
    source: Any = few
    for shift, union, count in ((0.5, 1.0, 4), (0.5, 0.25, 6), (0.5, None, 3)):
        previous = at_parts(few, ROWS, np.array([1, 2, 3]), shift)
        found = gather(source, ROWS, PLAIN, DETECT, previous, union)
        assert np.bincount(found.points.image)[ROWS].tolist() == [count] * len(ROWS)
        mine = found.points.xy[found.points.image == 5]
        old = previous.xy[previous.image == 5]
        assert (mine[None] == old[:, None]).all(2).any(1).tolist() == [union is not None] * 3
        assert found.means is not None
        part = found.means[:, 1 : 1 + PARTS]
        assert part.argmax(1).tolist()[1:] == [1, 2, 3] and not part[0].any()  # one landmark had no label


def test_memory_of_some_images(few: Planted) -> None:
    """Labels of images that are not seen, and images that have none."""
    source: Any = few
    labels = at_parts(few, np.array([1, 3, 4, 9]), np.array([0, 2]))
    memory = Memory(labels, flipped=False)
    points, own = memory.recall(source, look(source, np.array([3, 5, 9]), PLAIN))
    assert points.image.tolist() == [0, 0, 2, 2] and own.tolist() == [0, 2, 0, 2]
    np.testing.assert_allclose(points.xy, few.centres[[3, 3, 9, 9], own], atol=1e-4)
    nothing, _ = memory.recall(source, look(source, np.array([6, 7]), PLAIN))
    assert not len(nothing.image) and nothing.descriptor.shape == (0, 1 + 3 * PARTS)
    want = np.stack([points.descriptor[own == k].mean(0) if k in own else np.zeros(13) for k in range(PARTS)])
    np.testing.assert_allclose(memory.means(), want, atol=1e-6)
    assert not Memory(labels, flipped=True).recall(source, look(source, ROWS, PLAIN))[1].size


def test_no_point_at_all(few: Planted) -> None:
    few.heights[:] = 0.1
    source: Any = few
    with pytest.raises(ULDError, match="no point is detected in any training image: lower"):
        gather(source, ROWS, PLAIN, DETECT, None, None)
    old = at_parts(few, ROWS[:1], np.array([0]))
    assert gather(source, ROWS, PLAIN, DETECT, old, 1.0).points.image.tolist() == [2]


def test_points_beside_the_objects(few: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four parts two lie in the box."""
    half = torch.zeros(GRID, GRID, dtype=torch.bool)
    half[: GRID // 2] = True
    monkeypatch.setattr(few, "inside", lambda rows, view=PLAIN: half.expand(len(rows), -1, -1))
    source: Any = few
    inside, outside = gather(source, ROWS, PLAIN, DETECT, None, None).points, beside(source, ROWS, PLAIN, DETECT)
    for points, part in ((inside, {0, 1}), (outside, {2, 3})):
        assert set(points.descriptor[:][:, 1 : 1 + PARTS].argmax(1).tolist()) == part
        assert len(points.image) == 2 * len(ROWS)


def spread(around: list[list[float]], each: int, seed: int) -> Pool:
    draw = np.random.default_rng(seed)
    x = np.repeat(np.array(around, np.float32), each, 0) + draw.normal(0, 0.02, (each * len(around), 2))
    count = len(x)
    return Pool(np.arange(count), np.zeros(count, bool), np.zeros((count, 2), np.float32), x.astype(np.float32))


def test_what_looks_like_the_background_is_dropped() -> None:
    """A third of the points in the boxes are of the wall behind, which is also seen beside the objects."""
    inside = spread([[0, 1], [1, 0], [0.7, 0.7]], 20, 0)
    outside = spread([[0.71, 0.7], [-1, 0]], 200, 1)
    kept = foreground(inside, outside, 2, 2, np.random.default_rng(0), KMEANS)
    assert kept[:40].all() and not kept[40:].any()
    with pytest.raises(ULDError, match=r"^400 points lie beside the objects, too few for 401 clusters: lower methods"):
        foreground(inside, outside, 2, 401, np.random.default_rng(0), KMEANS)


def test_labels_as_landmarks(few: Planted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    source: Any = few
    labels = at_parts(few, ROWS, np.arange(PARTS))
    found = discovery(task(source, ROWS), labels)
    landmarks = found.landmarks
    assert landmarks.counts.tolist() == [len(ROWS)] * PARTS and found.quality["points"] == PARTS * len(ROWS)
    assert landmarks.centroids[:, 1 : 1 + PARTS].argmax(1).tolist() == list(range(PARTS))
    for k in range(PARTS):
        image = landmarks.exemplar_image[k]
        want = labels.xy[(labels.label == k)][np.searchsorted(ROWS, image)]
        np.testing.assert_allclose(landmarks.exemplar_xy[k], want, atol=1e-3)
    assert not caplog.records
