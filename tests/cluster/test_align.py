"""Alignment of slots between poses: planted permutations, chains of neighbours, twins, absent slots."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from uld.cluster.align import Drift, align

NOWHERE = np.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def on_circle(degrees: Any) -> np.ndarray:
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1)


def shuffled(table: np.ndarray, seed: int, root: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots of each pose (Q, K, ...) in another order, but for the root's, and the order (Q, K) that mends it."""
    order = np.stack([rng(seed + q).permutation(table.shape[1]) for q in range(len(table))])
    order[root] = np.arange(table.shape[1])
    mixed = np.empty_like(table)
    for q, one in enumerate(order):
        mixed[q, one] = table[q]
    return mixed, order


def matched(parent: Any, child: Any, xy: Any = None, weight: float = 0.0) -> list[int]:
    """Order of the slots of a child pose (K, D)."""
    centroids = np.array([parent, child], dtype=float)
    places = np.full((*centroids.shape[:2], 2), NOWHERE) if xy is None else np.array(xy, dtype=float)
    return align(centroids, places, np.array([[0.0], [1.0]]), np.array([2, 1]), weight)[0][1].tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), poses=st.integers(1, 7), weight=st.sampled_from([0.0, 0.5]))
def test_planted_orders_come_back(seed: int, poses: int, weight: float) -> None:
    part = rng(seed).normal(size=(8, 16))
    table = part + 0.3 * rng(seed + 1).normal(size=(poses, 8, 16))
    counts = rng(seed + 2).permutation(poses) + 1
    mixed, truth = shuffled(table, seed, int(counts.argmax()))
    xy = np.empty((poses, 8, 2))
    np.put_along_axis(xy, truth[..., None], np.tile(rng(seed + 3).random((8, 2)), (poses, 1, 1)), axis=1)
    order, drift = align(mixed, xy, rng(seed + 4).normal(size=(poses, 3)), counts, weight)
    np.testing.assert_array_equal(order, truth)
    np.testing.assert_array_equal(np.take_along_axis(mixed, order[..., None], axis=1), table)
    assert drift.moved == pytest.approx((truth != np.arange(8)).sum() / max(1, 8 * (poses - 1)))
    assert (drift.apart > 0) == (poses > 1)


@pytest.mark.parametrize("root", [0, 3, 6])
def test_what_only_a_chain_of_neighbours_can_match(root: int) -> None:
    """Six parts 60 degrees apart turn by 25 degrees from pose to pose: two poses on, another part is nearer."""
    along = np.array([4, 0, 6, 2, 5, 1, 3])  # where each pose stands in the chain
    table = on_circle(60 * np.arange(6) + 25 * along[:, None])
    counts = np.where(along == root, 9, 5)
    mixed, truth = shuffled(table, 1, int(counts.argmax()))
    poses = np.stack([along**1.3, 0.2 * (-1.0) ** along], axis=1)
    order, drift = align(mixed, np.full((7, 6, 2), NOWHERE), poses, counts, 0.5)
    np.testing.assert_array_equal(order, truth)
    assert drift.apart == pytest.approx(1 - np.cos(np.radians(25)))
    first, last = counts.argmax(), (along == (6 if root < 4 else 0)).argmax()
    direct = linear_sum_assignment(1 - mixed[first] @ mixed[last].T)[1]
    assert (direct != truth[last]).all()


def test_the_largest_pose_is_the_first() -> None:
    table = rng(1).normal(size=(5, 8))
    mixed = np.stack([table, table[[1, 0, 2, 4, 3]], table[[2, 0, 1, 3, 4]]])
    for root in range(3):
        order, _ = align(mixed, np.zeros((3, 5, 2)), np.arange(3.0)[:, None], np.where(np.arange(3) == root, 7, 6), 0)
        assert order[root].tolist() == [0, 1, 2, 3, 4]
        for q in range(3):
            np.testing.assert_array_equal(mixed[q, order[q]], mixed[root])


def test_cosine_and_not_distance() -> None:
    """Means of mixed clusters are short, which says nothing of where they point."""
    parent, child = np.eye(2), np.array([[9, 7], [0.1, 0]])
    assert matched(parent, child) == [1, 0]
    for cost in (np.linalg.norm(parent[:, None] - child, axis=2), -parent @ child.T):
        assert linear_sum_assignment(cost)[1].tolist() == [0, 1]
    assert matched([[1, 0], [0, 0]], [[0, 0], [1, 0]]) == [1, 0]


def test_position_tells_twins_apart() -> None:
    """Both eyes look alike, and the left one of the child a little more like the right one of the parent."""
    parent, child = on_circle([0, 4, 90]), on_circle([3, 1, 90])
    xy = [[[0.3, 0.4], [0.7, 0.4], [0.5, 0.7]], [[0.25, 0.4], [0.6, 0.4], [0.4, 0.7]]]
    assert matched(parent, child, xy, 0.0) == [1, 0, 2]
    assert matched(parent, child, xy, 0.5) == [0, 1, 2]
    swapped = [xy[0], [xy[1][1], xy[1][0], xy[1][2]]]
    assert matched(parent, child, swapped, 0.5) == [1, 0, 2]


@pytest.mark.parametrize("scale", [1, 0.02])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_are_in_units_of_the_parents_spread(scale: float, axis: int) -> None:
    """Parent at -1 and 1, a spread of 1, child at -3 and 3.

    Descriptors are at right angles and swapped: as they are the two cost 2 + 2 x 2 weight, swapped 0 + 2 x 4 weight.
    """
    xy = np.zeros((2, 2, 2))
    xy[:, :, axis] = [[-1, 1], [-3, 3]]
    xy = scale * xy + 0.5
    assert matched(np.eye(2), np.eye(2)[::-1], xy, 0.49) == [1, 0]
    assert matched(np.eye(2), np.eye(2)[::-1], xy, 0.51) == [0, 1]


def test_the_parent_is_taken_in_its_own_order() -> None:
    """Descriptors say nothing between the last two poses, positions do: a parent's must be moved with its slots."""
    parts = np.eye(3)
    centroids = np.stack([parts, parts[[2, 0, 1]], np.ones((3, 3))])
    line = np.array([[0.1, 0.5], [0.5, 0.5], [0.9, 0.5]])
    xy = np.stack([line, line[[2, 0, 1]], line[[1, 0, 2]]])
    order, drift = align(centroids, xy, np.array([[0.0], [1], [2]]), np.array([9, 5, 4]), 1.0)
    assert order.tolist() == [[0, 1, 2], [1, 2, 0], [1, 0, 2]]
    assert drift.moved == pytest.approx(5 / 6)
    assert drift.apart == pytest.approx((3 * 0 + 3 * (1 - 3**-0.5)) / 6)


def test_slots_with_a_place_are_matched_around_an_absent_one() -> None:
    alike, parent = np.ones((3, 2)), [[0, 0], [1, 0], [3, 0]]
    for child, order in (
        ([[0, 0], [NOWHERE, 0], [3, 0]], [0, 1, 2]),
        ([[3, 0], [0, NOWHERE], [0, 0]], [2, 1, 0]),
        ([[NOWHERE, NOWHERE], [3, 0], [1, 0]], [0, 2, 1]),
    ):
        assert matched(alike, alike, [parent, child], 1.0) == order


def test_an_absent_place_counts_as_the_mean_gap() -> None:
    """Parent at 0, 2 (a spread of 1) and nowhere, child at 0, 5 and nowhere: known gaps 0, 5, 2, 3, mean 2.5.

    Descriptors are at right angles and alike slot by slot. As they are the three cost (0 + 3 + 2.5) weight, with the
    last two swapped (0 + 2.5 + 2.5) weight + 2: swapped is cheaper above 4.
    """
    xy = [[[0, 0], [2, 0], [NOWHERE, 0]], [[0, 0], [5, 0], [NOWHERE, 0]]]
    assert matched(np.eye(3), np.eye(3), xy, 3.9) == [0, 1, 2]
    assert matched(np.eye(3), np.eye(3), xy, 4.1) == [0, 2, 1]


@pytest.mark.parametrize("side", [0, 1])
def test_where_nobody_has_a_place_descriptors_decide(side: int) -> None:
    xy = rng().random((2, 4, 2))
    xy[side] = NOWHERE
    assert matched(np.eye(4), np.eye(4)[[2, 0, 3, 1]], xy, 5.0) == [1, 3, 0, 2]
    xy[0] = [0.5, 0.5]
    xy[0, 1:] = NOWHERE
    assert matched(np.eye(4), np.eye(4)[[2, 0, 3, 1]], xy, 5.0) == [1, 3, 0, 2]


def test_poses_in_one_place_are_all_reached() -> None:
    table = rng(1).normal(size=(4, 6))
    mixed, truth = shuffled(np.stack([table] * 5), 3, 2)
    order, _ = align(mixed, np.zeros((5, 4, 2)), np.zeros((5, 3)), np.array([1, 1, 2, 1, 1]), 0.5)
    np.testing.assert_array_equal(order, truth)


def test_one_pose_and_one_landmark() -> None:
    order, drift = align(np.ones((1, 3, 2)), np.zeros((1, 3, 2)), np.zeros((1, 4)), np.array([5]), 0.5)
    assert order.tolist() == [[0, 1, 2]] and drift == Drift(0, 0)
    order, drift = align(np.ones((3, 1, 2)), np.zeros((3, 1, 2)), np.eye(3), np.array([5, 6, 7]), 0.5)
    assert order.tolist() == [[0], [0], [0]] and drift.moved == 0 and drift.apart == pytest.approx(0, abs=1e-12)
