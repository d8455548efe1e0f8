"""One point a cluster in each image: the Hungarian algorithm, and which points are too far from their cluster."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from uld.landmarks import assign as module
from uld.landmarks.assign import assign, limits, squared
from uld.landmarks.label import Pool


def pool(counts: list[tuple[int, bool, int]], seed: int = 0, dims: int = 4) -> Pool:
    """So many points of each image and flip: (image, flipped, points)."""
    draw = np.random.default_rng(seed)
    image, flipped, many = (np.array(column) for column in zip(*counts, strict=True))
    total = int(many.sum())
    xy, x = draw.random((total, 2), np.float32), draw.normal(size=(total, dims)).astype(np.float32)
    return Pool(np.repeat(image, many), np.repeat(flipped.astype(bool), many), xy, x)


POINTS = pool([(3, False, 5), (4, False, 1), (7, False, 9), (9, False, 3), (3, True, 4), (9, True, 6)])
CENTROIDS = np.random.default_rng(9).normal(size=(6, 4)).astype(np.float32)


def plain(points: Pool, centroids: np.ndarray, far: float | None) -> list[tuple[int, int]]:
    """(point, label) by loops over images and clusters, as equation 5.2 and the author's thresholds have it."""
    x = np.asarray(points.descriptor[:], np.float64)
    gap = ((x[:, None] - centroids) ** 2).sum(2)
    found = []
    for image, flipped in sorted({*zip(points.image.tolist(), points.flipped.tolist(), strict=True)}):
        mine = np.flatnonzero((points.image == image) & (points.flipped == flipped))
        for point, label in zip(*linear_sum_assignment(gap[mine]), strict=True):
            found.append((int(mine[point]), int(label)))
    if far is not None:
        limit = []
        for k in range(len(centroids)):
            own = gap[gap.argmin(1) == k, k]
            limit.append(own.mean() + far * own.std() if len(own) else 0.0)
        found = [(point, label) for point, label in found if gap[point, label] <= limit[label] + 1e-6]
    return sorted(found)


@pytest.mark.parametrize("far", [None, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("piece", [1, 7, 2**13])
def test_equals_a_plain_loop(monkeypatch: pytest.MonkeyPatch, far: float | None, piece: int) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    index, label = assign(POINTS, CENTROIDS, far)
    assert list(zip(index.tolist(), label.tolist(), strict=True)) == plain(POINTS, CENTROIDS, far)
    assert (np.diff(index) > 0).all()
    keys = np.stack([POINTS.flipped[index], POINTS.image[index], label])
    assert len(np.unique(keys, axis=1).T) == len(index)


def test_no_other_assignment_costs_less() -> None:
    """All of them, in an image of three points."""
    mine = np.flatnonzero((POINTS.image == 9) & ~POINTS.flipped)
    index, label = assign(POINTS.take(mine), CENTROIDS, None)
    gap = squared(POINTS.descriptor[mine], CENTROIDS)
    every = [gap[np.arange(3), list(chosen)].sum() for chosen in itertools.permutations(range(6), 3)]
    assert gap[index, label].sum() == pytest.approx(min(every), rel=1e-6)


def test_distances() -> None:
    x = np.asarray(POINTS.descriptor[:])
    np.testing.assert_allclose(squared(x, CENTROIDS), ((x[:, None] - CENTROIDS) ** 2).sum(2), atol=1e-5)
    assert (squared(x, x).diagonal() >= 0).all()


def test_limits_by_hand() -> None:
    near, distance = np.array([0, 2, 0, 0, 3]), np.array([1.0, 5, 2, 6, 0])
    found = limits(near, distance, 5, 2.0)
    spread = np.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)
    np.testing.assert_allclose(found, [3 + 2 * spread, 0, 5, 0, 0])


def test_clusters_of_one_point_keep_it() -> None:
    """Its distance is the mean and nothing deviates; so do points that are all alike."""
    one = pool([(0, False, 6)])
    index, label = assign(one, np.asarray(one.descriptor[:]), 0.0)
    assert index.tolist() == list(range(6)) and label.tolist() == list(range(6))
    same = Pool(np.arange(5), np.zeros(5, bool), np.zeros((5, 2), np.float32), np.tile(CENTROIDS[:1] + 0.1, (5, 1)))
    assert assign(same, CENTROIDS, 1.0)[0].tolist() == list(range(5))


def test_no_points() -> None:
    nothing = Pool(np.empty(0, np.int64), np.empty(0, bool), np.empty((0, 2), np.float32), np.empty((0, 4), np.float32))
    for far in (None, 1.0):
        index, label = assign(nothing, CENTROIDS, far)
        assert not len(index) and not len(label)
