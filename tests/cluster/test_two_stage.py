"""Pose clusters, and clusters of descriptors within each pose: by hand, and on planted poses and parts."""

import logging
from typing import Any

import numpy as np
import pytest

from uld.base.errors import ULDError
from uld.cluster import kmeans
from uld.cluster.two_stage import Poses, keypoint_clusters, pose_clusters


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def poses_of(codes: np.ndarray, count: int, seed: int = 0, **changes: Any) -> Poses:
    chosen: dict[str, Any] = {"least": 1, "restarts": 10, "iterations": 50} | changes
    return pose_clusters(codes.astype(np.float32), count, rng(seed), **chosen)


def on_a_line(*groups: tuple[float, int]) -> np.ndarray:
    """Codes (n, 1): so many images at each place."""
    return np.concatenate([np.full(n, place) for place, n in groups])[:, None]


def places(found: Poses) -> list[float]:
    """Centroids of a one-dimensional code."""
    return found.centroids[:, 0].astype(float).round(3).tolist()


def clusters_of(found: Poses) -> list[tuple[float, int]]:
    """Place and size of each, from left to right."""
    return sorted(zip(places(found), found.counts.tolist(), strict=True))


# --- images by pose ---


def test_poses_by_hand() -> None:
    codes = np.array([[0, 10], [2, 10], [4, 30], [6, 30]])
    found = poses_of(codes, 2)
    order = np.argsort(found.centroids[:, 0])
    np.testing.assert_allclose(found.centroids[order], [[1, 10], [5, 30]])
    assert order[found.label].tolist() == [0, 0, 1, 1] and found.counts.tolist() == [2, 2]


def test_a_unit_counts_by_its_spread() -> None:
    """Neither a constant unit nor sixty that the encoder has all but switched off hide the poses of the others."""
    pose = np.repeat([0, 1, 2], 30)
    live = np.stack([np.cos(2.1 * pose), np.sin(2.1 * pose)], axis=1) + 0.05 * rng(1).normal(size=(90, 2))
    dead = 0.02 * rng(2).normal(size=(90, 60))
    found = poses_of(np.concatenate([live, np.full((90, 1), 0.7), dead], axis=1), 3)
    assert len(set(zip(pose, found.label, strict=True))) == 3


def test_the_smallest_goes_first() -> None:
    """7 joins 3, and both stay. Had 3 gone first, it would have joined 0, and 7 then 12."""
    found = poses_of(on_a_line((0, 10), (3, 3), (7, 2), (12, 10)), 4, least=4)
    assert clusters_of(found) == [(0, 10), (4.6, 5), (12, 10)]
    assert found.label.tolist() == [found.label[0]] * 10 + [found.label[10]] * 5 + [found.label[15]] * 10


@pytest.mark.parametrize(
    ("least", "left"),
    [
        (0, [(0, 1), (4, 3), (9, 2), (20, 9)]),
        (1, [(0, 1), (4, 3), (9, 2), (20, 9)]),
        (2, [(3, 4), (9, 2), (20, 9)]),
        (3, [(5, 6), (20, 9)]),
        (6, [(5, 6), (20, 9)]),
        (7, [(14, 15)]),
        (100, [(14, 15)]),
    ],
)
def test_merging_goes_on_until_all_are_large_enough(
    least: int, left: list[tuple[float, int]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = poses_of(on_a_line((0, 1), (4, 3), (9, 2), (20, 9)), 4, least=least)
    assert clusters_of(found) == left
    assert caplog.messages == (
        [f"{len(left)} of 4 pose clusters remain: the others had fewer than {least} images"] if len(left) < 4 else []
    )


def test_after_merging_images_go_to_their_nearest() -> None:
    """8 and 12 are one cluster, nearer to 17; but 8 is then nearer to 0 than to what they become."""
    codes = np.concatenate([np.zeros(20), [8, 12], np.full(20, 17)])[:, None]
    found = poses_of(codes, 3, least=3)
    assert clusters_of(found) == [(0, 21), (pytest.approx(360 / 22, abs=1e-3), 21)]
    assert found.label[20] == found.label[0] and found.label[21] == found.label[-1]
    np.testing.assert_array_equal(found.assign(codes)[0], found.label)


def test_fewer_distinct_codes_than_clusters() -> None:
    found = poses_of(on_a_line((0, 4), (1, 5)), 4, least=0)
    assert clusters_of(found) == [(pytest.approx(0, abs=0.01), 4), (pytest.approx(1, abs=0.01), 5)]


def test_fields_agree_with_each_other() -> None:
    codes = rng(3).normal(size=(200, 4)) @ rng(4).normal(size=(4, 4))
    found = poses_of(codes, 7, least=20)
    assert found.centroids.dtype == np.float32
    np.testing.assert_array_equal(found.assign(codes)[0], found.label)
    np.testing.assert_array_equal(found.counts, np.bincount(found.label, minlength=len(found.centroids)))
    assert found.counts.min() >= 20 and len(found.centroids) <= 7


def test_same_seed_same_poses() -> None:
    codes = rng(3).normal(size=(150, 6))
    once, again, other = (poses_of(codes, 6, seed, restarts=1) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once.centroids, again.centroids)
    np.testing.assert_array_equal(once.label, again.label)
    assert not np.array_equal(once.label, other.label)


def test_a_pose_keeps_its_number() -> None:
    """Images have come and gone: the order of sizes is another, the poses are not."""
    before = poses_of(on_a_line((0, 50), (1, 30), (2, 20)), 3)
    assert places(before) == [0, 1, 2]
    codes = on_a_line((2, 80), (0, 6), (1, 10))
    after = poses_of(codes, 3, init=before.centroids, restarts=1)
    assert places(after) == [0, 1, 2] and after.counts.tolist() == [6, 10, 80]
    np.testing.assert_array_equal(after.label, codes[:, 0])


def test_poses_do_not_grow_again_and_a_lower_count_starts_anew() -> None:
    codes = on_a_line((0, 50), (1, 30), (5, 20), (6, 10))
    before = poses_of(codes, 2)
    assert len(poses_of(codes, 4, init=before.centroids).centroids) == 2
    four = poses_of(codes, 4)
    np.testing.assert_array_equal(poses_of(codes, 2, init=four.centroids).centroids, before.centroids)


def test_margin_by_hand() -> None:
    empty = np.empty(0, np.int64)
    found = Poses(np.array([[0, 0], [4, 0], [0, 9]], np.float32), empty, empty)
    label, margin = found.assign(np.array([[1, 0], [0, 0], [2, 0], [4, 3], [0, 5]]))
    assert label.tolist() == [0, 0, 0, 1, 2] and label.dtype == np.int64 and margin.dtype == np.float32
    np.testing.assert_allclose(margin, [1 / 3, 0, 1, 3 / 5, 4 / 5], rtol=1e-6)
    assert [len(one) for one in found.assign(np.empty((0, 2)))] == [0, 0]


def test_margin_of_one_pose_and_of_two_in_one_place() -> None:
    empty = np.empty(0, np.int64)
    single, double = (Poses(np.zeros((q, 2), np.float32), empty, empty) for q in (1, 2))
    assert [part.tolist() for part in single.assign(np.eye(2))] == [[0, 0], [0, 0]]
    assert [part.tolist() for part in double.assign(np.array([[0, 0], [0, 1]]))] == [[0, 0], [1, 1]]


def test_what_a_user_can_cause() -> None:
    codes = rng().normal(size=(4, 3))
    with pytest.raises(ULDError, match=r"4 images cannot have 5 pose clusters: ask for fewer"):
        poses_of(codes, 5)
    assert len(poses_of(codes, 4).centroids) == 4
    codes[1, 0] = codes[3, 1] = codes[3, 2] = np.nan
    with pytest.raises(ULDError, match=r"2 of 4 images are not finite: train the pose proxy"):
        poses_of(codes, 2)


@pytest.mark.parametrize("size", [0.0, 0.1, 70.0])
def test_collapsed_codes(size: float) -> None:
    """Rounding errors are no spread."""
    codes = np.full((50, 8), size) * (1 + 1e-7 * rng().normal(size=(50, 8)))
    with pytest.raises(ULDError, match=r"same pose code.*lower weight of the KL"):
        poses_of(codes, 2)
    codes[7, 3] += 1
    assert sorted(poses_of(codes, 2).counts) == [1, 49]


# --- descriptors within each pose ---


def slots_of(x: Any, pose: Any, centroids: Any, xy: Any = None, **changes: Any) -> Any:
    x = np.asarray(x, np.float32)
    xy = np.zeros((len(x), 2)) if xy is None else np.asarray(xy)
    chosen: dict[str, Any] = {"poses": 2, "iterations": 50, "prior": 0} | changes
    return keypoint_clusters(x, np.asarray(pose), xy, np.asarray(centroids, np.float32), **chosen)


def test_slots_by_hand() -> None:
    x = [[0, 1], [10, 1], [2, 0], [0, 3], [9, 0], [4, 2]]
    xy = [[0.1, 0.2], [0.9, 0.8], [0.3, 0.1], [0.0, 0.4], [0.7, 0.7], [0.5, 0.3]]
    found = slots_of(x, [0, 0, 0, 1, 1, 1], [[10, 0], [1, 0]], xy)
    np.testing.assert_allclose(found.centroids, [[[10, 1], [1, 0.5]], [[9, 0], [2, 2.5]]])
    assert found.counts.tolist() == [[1, 2], [1, 2]]
    np.testing.assert_allclose(found.xy, [[[0.9, 0.8], [0.2, 0.15]], [[0.7, 0.7], [0.25, 0.35]]], rtol=1e-6)
    assert found.centroids.dtype == found.xy.dtype == np.float32 and found.counts.dtype == np.int64


def test_lloyd_iterations_are_counted() -> None:
    """From 0 and 14 the points are parted at 7, then at 5.7, then at 4.5."""
    x, start = np.array([[0.0], [4], [6], [8]]), [[0], [14]]
    steps = [slots_of(x, [0] * 4, start, poses=1, iterations=n).centroids[0, :, 0].tolist() for n in (1, 2, 3, 9)]
    assert steps == [[pytest.approx(10 / 3), 8], [2, 7], [2, 7], [2, 7]]


def test_a_slot_means_the_same_part_in_each_pose() -> None:
    """Parts turn with the pose by less than half of what parts them; their numbers are those of the common start."""
    angle = np.array([0, 60, 120, 180, 240, 300]) + 25 * np.array([-1, 0, 1])[:, None]
    truth = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], axis=2)
    pose, part = rng(1).integers(0, 3, 2000), rng(2).choice(6, 2000, p=[0.05, 0.1, 0.3, 0.25, 0.2, 0.1])
    x = truth[pose, part] + 0.02 * rng(3).normal(size=(2000, 2))
    found = slots_of(x, pose, truth[1], poses=3)
    np.testing.assert_allclose(found.centroids, truth, atol=0.02)
    for q in range(3):
        np.testing.assert_array_equal(found.counts[q], np.bincount(part[pose == q], minlength=6))
    nearest = ((x[:, None] - found.centroids[pose]) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(nearest, part)


def test_a_slot_that_wins_no_point_keeps_the_common_centroid() -> None:
    """The outlier at (0, 9) is what k-means would set the lost slot to; here it stays with its nearest."""
    x = [[0, 0], [1, 0], [0, 9], [10, 0]]
    start = np.array([[0.5, 0], [10, 0], [50, 50]], np.float32)
    found = slots_of(x, [0, 0, 0, 0], start, poses=1)
    np.testing.assert_allclose(found.centroids[0], [[1 / 3, 3], [10, 0], [50, 50]], rtol=1e-6)
    assert (
        found.counts.tolist() == [[3, 1, 0]] and np.isnan(found.xy[0, 2]).all() and np.isfinite(found.xy[0, :2]).all()
    )
    moved = kmeans.fit(np.float32(x), 3, rng(), restarts=1, iterations=50, cap=9, init=start).centroids
    assert (np.abs(moved[2]) < 20).all()


def test_a_slot_that_loses_its_points_on_the_way_goes_back() -> None:
    """The middle wins -1 and 1 at first, whose mean is 0; its neighbours then come nearer to each."""
    x = np.array([[-1.2]] * 5 + [[-1.0], [1.0]] + [[1.2]] * 5)
    once, done = (slots_of(x, [0] * 12, [[-2.2], [0.05], [2.2]], poses=1, iterations=n) for n in (1, 20))
    np.testing.assert_allclose(once.centroids[0, :, 0], [-1.2, 0, 1.2], atol=1e-6)
    np.testing.assert_allclose(done.centroids[0, :, 0], [-7 / 6, 0.05, 7 / 6], rtol=1e-6)
    assert done.counts.tolist() == [[6, 0, 6]]


def test_a_pose_without_points_is_the_common_one() -> None:
    start = np.eye(3, dtype=np.float32)
    for prior in (0, 4):
        found = slots_of(np.eye(3), [1, 1, 1], start, poses=3, prior=prior)
        np.testing.assert_array_equal(found.centroids, np.stack([start] * 3))
        assert found.counts.tolist() == [[0] * 3, [1] * 3, [0] * 3]
        assert np.isnan(found.xy[[0, 2]]).all() and np.isfinite(found.xy[1]).all()


@pytest.mark.parametrize("prior", [0, 2, 6, 1e9])
def test_the_prior_weighs_as_so_many_points(prior: float) -> None:
    x, start = [[4.0, 0]] * 2 + [[0, 8.0]] * 6, np.array([[3, 0], [0, 6]], np.float32)
    found = slots_of(x, [0] * 8, start, poses=1, prior=prior)
    weight = np.array([2 / (2 + prior), 6 / (6 + prior)])
    np.testing.assert_allclose(found.centroids[0], [[3 + weight[0], 0], [0, 6 + 2 * weight[1]]], rtol=1e-6)


def test_no_iteration_raises_the_pulled_sum_of_squares() -> None:
    x, start, prior = rng(5).normal(size=(300, 4)).astype(np.float32), rng(6).normal(size=(8, 4)), 7.0
    sums = []
    for n in range(1, 12):
        centroids = slots_of(x, [0] * 300, start, poses=1, prior=prior, iterations=n).centroids[0]
        sums.append(kmeans.nearest(x, centroids)[1].sum() + prior * ((centroids - start) ** 2).sum())
    assert (np.diff(sums) < 1e-3).all() and sums[0] - sums[-1] > 10
    free = slots_of(x, [0] * 300, start, poses=1, iterations=50).centroids[0]
    assert ((free - start) ** 2).sum() > ((centroids - start) ** 2).sum()


def test_poses_do_not_see_each_other() -> None:
    x, pose = rng(5).normal(size=(200, 3)), rng(6).integers(0, 2, 200)
    both = slots_of(x, pose, x[:4])
    alone = slots_of(x[pose == 1], pose[pose == 1] - 1, x[:4], poses=1)
    np.testing.assert_array_equal(both.centroids[1], alone.centroids[0])
    np.testing.assert_array_equal(both.counts[1], alone.counts[0])


def test_slots_in_order() -> None:
    found = slots_of(np.eye(3), [0, 1, 1], 2 * np.eye(3), xy=[[0, 1], [2, 3], [4, 5]])
    order = np.array([[1, 2, 0], [0, 1, 2]])
    turned = found.ordered(order)
    np.testing.assert_array_equal(turned.centroids[0], found.centroids[0][[1, 2, 0]])
    np.testing.assert_array_equal(turned.centroids[1], found.centroids[1])
    assert turned.counts.tolist() == [[0, 0, 1], [0, 1, 1]]
    np.testing.assert_array_equal(turned.xy[0], [[np.nan] * 2, [np.nan] * 2, [0, 1]])
