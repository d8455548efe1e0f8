"""NME summaries, bootstrap, CED, PCK, raw accuracy and stability on hand-made errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.artifacts.found import Found
from uld.artifacts.predictions import Predictions, Warped
from uld.evaluate.ced import auc, ced, cumulative, failure
from uld.evaluate.nme import image_nme, interval, landmark_nme, nme
from uld.evaluate.pck import match, pck, raw_accuracy, threshold_name
from uld.evaluate.stability import detection_rate, distinct, stability


def test_means_by_landmark_and_by_image_leave_absent_points_out() -> None:
    errors = np.array([[[0.1, 0.3], [0.2, np.nan]]])
    np.testing.assert_allclose(landmark_nme(errors), [15, 30])
    np.testing.assert_allclose(image_nme(errors), [0.2, 0.2])
    assert nme(errors) == pytest.approx(22.5)
    assert np.isnan(nme(np.full((1, 2, 2), np.nan)))


def test_the_interval_covers_the_mean_and_has_the_width_of_the_normal_one() -> None:
    errors = np.random.default_rng(0).gamma(2, 0.05, size=(1, 400, 1))
    low, high = interval(errors, 2000, np.random.default_rng(1))
    assert low < nme(errors) < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * errors.std() / 20, rel=0.1)


def test_the_interval_is_seeded_paired_and_independent_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = np.random.default_rng(0).gamma(2, 0.05, size=(2, 50, 3))
    errors[:, :5, 1] = np.nan
    one = interval(errors, 100, np.random.default_rng(3))
    monkeypatch.setattr("uld.evaluate.nme.BLOCK", 170)
    assert interval(errors, 100, np.random.default_rng(3)) == pytest.approx(one, rel=1e-5)
    assert interval(errors + 0.1, 100, np.random.default_rng(3)) == pytest.approx((one[0] + 10, one[1] + 10), rel=1e-4)


def test_a_constant_error_has_an_interval_of_no_width() -> None:
    assert interval(np.full((1, 30, 2), 0.1), 50, np.random.default_rng(0)) == pytest.approx((10, 10))


def test_ced_of_known_errors() -> None:
    images = np.array([0.05, 0.1, 0.1, 0.3])
    thresholds, fraction = ced(images, 0.2)
    assert len(thresholds) == 101 and thresholds[-1] == 0.2
    assert fraction[[0, 24, 26, 49, 51, 100]].tolist() == [0, 0, 0.25, 0.25, 0.75, 0.75]
    assert ced(np.array([0.0, 1.0]), 0.2)[1][0] == 0.5  # an error at the threshold counts
    assert failure(images, 0.2) == 0.25
    assert auc(images, 0.2) == pytest.approx((0.75 + 0.5 + 0.5 + 0) / 4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_auc_is_the_area_under_the_curve(values: list[float]) -> None:
    images = np.array(values)
    thresholds, fraction = ced(images, 0.2)
    assert (np.diff(fraction) >= 0).all()
    assert auc(images, 0.2) == pytest.approx(np.trapezoid(fraction, thresholds) / 0.2, abs=0.011)


def test_cumulative_is_the_running_mean_of_the_sorted_errors() -> None:
    np.testing.assert_allclose(cumulative(np.array([6.0, 2.0, np.nan, 4.0])), [2, 3, 4])


def test_pck_counts_shares_at_and_below_the_threshold() -> None:
    errors = np.array([[[0.04, 0.05, 0.06, np.nan]]], dtype=np.float64)
    assert pck(errors, (0.05, 0.1)) == {"at05": pytest.approx(2 / 3), "at10": 1.0}
    # of a 48-pixel box 2.4 pixels are 5 %: 2.99 pixels are not, though a peer's integer distances let them pass
    assert pck(np.array([[[2.39, 2.40, 2.99, 3.00]]]) / 48, (0.05,)) == {"at05": 0.5}


def test_threshold_names_hold_no_dot() -> None:
    assert [threshold_name(one) for one in (0.05, 0.1, 0.2, 0.025, 1)] == ["at05", "at10", "at20", "at2p5", "at100"]


@given(st.permutations(range(6)))
def test_matching_undoes_a_permutation(order: list[int]) -> None:
    truth = np.random.default_rng(0).normal(size=(20, 6, 2))
    pairs = match(truth[:, order], truth, np.ones(20))
    assert [order[k] for k in pairs[:, 0]] == pairs[:, 1].tolist()
    assert raw_accuracy(truth[:, order], truth, np.ones(20), pairs, 0.2).tolist() == [1.0] * 6


def test_raw_accuracy_counts_an_absent_landmark_as_a_miss() -> None:
    truth = np.zeros((4, 1, 2))
    found = np.array([[[0.0, 0.1]], [[0.0, 0.3]], [[np.nan, np.nan]], [[0.2, 0.0]]])
    truth[3] = np.nan
    pairs = np.array([[0, 0]])
    assert raw_accuracy(found, truth, np.ones(4), pairs, 0.2).tolist() == [pytest.approx(1 / 3)]


def test_landmarks_never_seen_beside_an_annotation_are_not_matched() -> None:
    truth = np.random.default_rng(0).normal(size=(10, 2, 2))
    found = truth.copy()
    found[:, 1] = np.nan
    assert match(found, truth, np.ones(10)).tolist() == [[0, 0]]
    assert match(np.zeros((10, 0, 2)), truth, np.ones(10)).shape == (0, 2)


def predictions_of(xy: np.ndarray, rows: list[int], warped: np.ndarray) -> Predictions:
    score = np.ones(xy.shape[:2], dtype=np.float32)
    split = np.array(["test" if row in rows else "train" for row in range(len(xy))], dtype=object)
    return Predictions(split, split, Found(xy, score, xy, score), Warped(np.array(rows), warped))


def test_stability_is_the_move_of_test_images_divided_by_the_box() -> None:
    """Images 0 and 2 are test images, of 50 pixels a side; one of their two warps moves each landmark by 5 of them."""
    xy = np.random.default_rng(0).uniform(size=(3, 4, 2)).astype(np.float32)
    warped = np.stack([xy[[0, 2]], xy[[0, 2]] + np.float32([3, 4])], axis=1)
    boxes = np.array([[0, 0, 100, 25], [0, 0, 1, 1], [10, 10, 60, 60]], dtype=np.float64)
    assert stability(predictions_of(xy, [0, 2], warped), boxes) == pytest.approx(5)
    assert np.isnan(stability(predictions_of(xy, [0, 2], warped[:, :0]), boxes))
    assert np.isnan(stability(predictions_of(xy[:, :0], [0, 2], warped[:, :, :0]), boxes))


def test_detection_rate_is_by_landmark() -> None:
    xy = np.zeros((4, 2, 2))
    xy[0, 0] = np.nan
    assert detection_rate(xy).tolist() == [0.75, 1.0]


def test_landmarks_that_lie_together_count_as_one() -> None:
    """Boxes of 100 x 100: 0 and 1 are 2 pixels apart, as are 1 and 2; 3 comes as near in one image of three only."""
    x = np.array([[0, 2, 4, 60], [0, 2, 4, 60], [0, 2, 4, 5]], float)
    xy = np.stack([x, np.zeros_like(x)], 2)
    boxes = np.array([[5.0, 5, 105, 105]] * 3)
    assert distinct(xy, boxes) == 2
    assert distinct(xy[[2, 2, 0]], boxes) == 1
    assert distinct(xy * 2, boxes) == 4 and distinct(xy[:, :1], boxes) == 1
