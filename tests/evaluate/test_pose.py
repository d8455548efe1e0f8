"""Pose clusters against yaw, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.base.errors import ULDError
from uld.evaluate.pose import accuracy, accuracy_of_yaw, explained, matched_accuracy, scores, yaw_bins


def test_five_ranges_of_yaw() -> None:
    yaw = np.array([-90, -60.1, -60, -45, -30, 0, 29.9, 30, 59.9, 60, 90, np.nan])
    bins = yaw_bins(yaw)
    assert bins.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, -1] and bins.dtype == np.int64
    assert yaw_bins(yaw, (0.0,)).tolist() == [0] * 5 + [1] * 6 + [-1]


def test_explained_by_hand() -> None:
    """Means 1 and 5 around 3.4: between 2 x 2.4^2 + 3 x 1.6^2 = 19.2, in all 27.2."""
    label, yaw = np.array([4, 4, 9, 9, 9]), np.array([0.0, 2, 3, 5, 7])
    between, within = 19.2, 2 + 8
    assert explained(label, yaw) == pytest.approx(between / (between + within))
    holed = np.append(yaw, [np.nan] * 2)
    assert explained(np.append(label, [4, 7]), holed) == pytest.approx(between / (between + within))


def test_explained_at_its_ends() -> None:
    yaw = np.array([-10.0, -10, 5, 5, 80])
    assert explained(np.array([1, 1, 0, 0, 2]), yaw) == pytest.approx(1)
    assert explained(np.zeros(5, int), yaw) == 0
    assert explained(np.arange(5), yaw) == pytest.approx(1)
    assert explained(np.array([0, 1, 0, 1]), np.array([-3.0, -3, 3, 3])) == 0
    assert np.isnan(explained(np.array([0, 1, 1]), np.array([0.1, 0.1, 0.1])))


def test_clusters_at_random_explain_their_number() -> None:
    rng = np.random.default_rng(0)
    yaw = rng.normal(size=41)
    found = [explained(rng.permutation(np.arange(41) % 5), yaw) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(4 / 40, abs=0.005)


@given(order=st.permutations(range(5)))
def test_accuracy_does_not_depend_on_numbers(order: list[int]) -> None:
    bins = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4, -1, -1])
    label = np.array(order)[np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 0, 3])]
    assert matched_accuracy(label, bins) == pytest.approx(8 / 9)


def test_accuracy_matches_one_to_one() -> None:
    """Frontal images are most of both clusters; only one can be matched to them, and 3 + 2 is more than 4 + 0."""
    label = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    bins = np.array([2, 2, 2, 2, 3, 3, 2, 2, 2])
    assert matched_accuracy(label, bins) == pytest.approx(5 / 9)


def test_accuracy_of_more_clusters_than_ranges_and_fewer() -> None:
    assert matched_accuracy(np.array([0, 0, 1, 2, 3, 3]), np.array([1, 1, 1, 1, 0, 0])) == pytest.approx(4 / 6)
    assert matched_accuracy(np.zeros(5, int), np.array([0, 1, 1, 4, 4])) == pytest.approx(2 / 5)


def test_accuracy_by_hand() -> None:
    """Clusters 3, 5 and 8 stand for ranges 2 (4 of 6 images), 2 (3 of 3) and 0 (a tie, 1 of 2)."""
    label = np.array([3, 3, 3, 3, 3, 3, 5, 5, 5, 8, 8, 8])
    bins = np.array([2, 2, 2, 2, 3, 3, 2, 2, 2, 0, 4, -1])
    share, ranges = accuracy(label, bins)
    assert share == pytest.approx(8 / 11)
    np.testing.assert_allclose(ranges, [1 / 2, np.nan, 7 / 9, np.nan, np.nan])


def test_accuracy_of_the_yaw_itself() -> None:
    """Two clusters part 0 ... 50 from 80 and 85: of the five below, three are frontal."""
    yaw = np.array([0.0, 10, 20, 40, 50, 80, 85, np.nan])
    assert accuracy_of_yaw(yaw, 2) == pytest.approx(5 / 7)
    assert accuracy_of_yaw(yaw, 1) == pytest.approx(3 / 7)
    assert accuracy_of_yaw(yaw, 100) == 1
    even = np.linspace(-89, 89, 2000)
    assert 0.7 < accuracy_of_yaw(even, 5) < 0.8 and accuracy_of_yaw(even, 6) > 0.95
    assert scores(np.array([0, 1, 0, 1, 0, 1, 0, 1]), yaw)["of_yaw"] == pytest.approx(5 / 7)


def test_accuracy_of_one_cluster_is_chance() -> None:
    yaw = np.array([0.0, 10, -20, 40, 70, np.nan])
    told = scores(np.zeros(6, int), yaw)
    assert told["accuracy"] == told["chance"] == told["ranges"]["frontal"] == pytest.approx(3 / 5)
    assert told["clusters"] == 1 and told["yaw_explained"] == 0


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(-90, 90)), min_size=1, max_size=40))
def test_accuracy_lies_between_matched_and_one(pairs: list[tuple[int, float]]) -> None:
    label, yaw = np.array([u for u, _ in pairs]), np.array([v for _, v in pairs])
    bins = yaw_bins(yaw)
    share, _ = accuracy(label, bins)
    chance, _ = accuracy(np.zeros(len(label), int), bins)
    assert matched_accuracy(label, bins) <= share <= 1 and chance <= share


def test_without_yaw() -> None:
    nothing = np.full(3, np.nan)
    for run in (
        lambda: yaw_bins(nothing),
        lambda: explained(np.arange(3), nothing),
        lambda: matched_accuracy(np.arange(3), np.full(3, -1)),
        lambda: accuracy(np.arange(3), np.full(3, -1)),
    ):
        with pytest.raises(ULDError, match="needs yaw"):
            run()
