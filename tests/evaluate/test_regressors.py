"""Closed-form maps: known answers, absent points, exact numbers of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.evaluate.cases import Case
from uld.evaluate.completion import svt
from uld.evaluate.nme import backward_errors, forward_errors, nme
from uld.evaluate.protocols import ALL, PROTOCOLS, Protocol
from uld.evaluate.regressors import draw, fit

OLS = PROTOCOLS["ols"]
CANONICAL = PROTOCOLS["canonical"]


def points(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k, 2)) * 10 + 50


def case_of(landmarks: np.ndarray, annotated: np.ndarray, train: int, protocol: Protocol = CANONICAL) -> Case:
    n = len(landmarks)
    rows = np.arange(n)
    return Case(
        ("canonical", "p", "dense"), protocol, landmarks, annotated, np.full(n, 5.0), rows[:train], rows[train:]
    )


def scores(case: Case, ridge: float) -> tuple[float, float]:
    rows = case.pool[None]
    forward = fit(case.landmarks, case.annotated, rows, ridge, case.protocol)
    backward = fit(case.annotated, case.landmarks, rows, ridge, case.protocol)
    return nme(forward_errors(case, forward)), nme(backward_errors(case, backward))


def affine_pair(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (n, 4, 2) and an exact affine function of them (n, 3, 2)."""
    x = points(n, 4)
    rng = np.random.default_rng(1)
    return x, (x.reshape(n, 8) @ rng.normal(size=(8, 6)) + rng.normal(size=6)).reshape(n, 3, 2)


def test_truth_against_itself_is_without_error_both_ways() -> None:
    truth = points(50, 5)
    assert scores(case_of(truth, truth, 40, OLS), 0.0) == pytest.approx((0, 0), abs=1e-4)
    assert max(scores(case_of(truth, truth, 40), 1e-3)) < 1


def test_a_linear_map_with_an_offset_is_recovered() -> None:
    x, y = affine_pair()
    regressor = fit(x, y, np.arange(40)[None], 0.0, OLS)
    np.testing.assert_allclose(regressor.predict(0, x), y, atol=1e-8)


def test_ridge_equals_the_augmented_least_squares() -> None:
    x, y = affine_pair()
    y = y + points(60, 3, seed=5)
    regressor = fit(x, y, np.arange(60)[None], 0.02, CANONICAL)
    xc, yc = x.reshape(60, 8), y.reshape(60, 6)
    xc, yc = xc - xc.mean(0), yc - yc.mean(0)
    decay = np.sqrt(0.02 * (xc.T @ xc).max()) * np.eye(8)
    expected = np.linalg.lstsq(np.vstack([xc, decay]), np.vstack([yc, np.zeros((8, 6))]), rcond=None)[0]
    np.testing.assert_allclose(regressor.maps[0, :-1], expected, atol=1e-10)


def test_without_intercept_an_offset_is_not_learned() -> None:
    x, y = affine_pair()
    regressor = fit(x, y + 100, np.arange(40)[None], 0.0, PROTOCOLS["tusk-wild"])
    assert np.abs(regressor.maps[:, -1]).max() == 0
    assert np.abs(regressor.predict(0, x) - y - 100).max() > 1


@given(st.floats(1e-3, 1e3), st.floats(-500, 500))
def test_canonical_nme_ignores_unit_and_origin(scale: float, offset: float) -> None:
    rng = np.random.default_rng(2)
    x = points(40, 3)
    y = x[:, [0, 1, 2, 0]] + rng.normal(size=(40, 4, 2))
    one = case_of(x, y, 30)
    n = np.full(40, 5.0 * scale)
    moved = Case(one.key, CANONICAL, x * scale + offset, y * scale + offset, n, one.pool, one.test)
    assert scores(moved, 1e-3) == pytest.approx(scores(one, 1e-3), rel=1e-3)


def test_no_landmark_gives_the_mean_shape() -> None:
    y = points(30, 3)
    regressor = fit(np.zeros((30, 0, 2)), y, np.arange(20)[None], 1e-3, CANONICAL)
    np.testing.assert_allclose(regressor.predict(0, np.zeros((10, 0, 2))), np.broadcast_to(y[:20].mean(0), (10, 3, 2)))


def test_landmarks_that_never_move_give_the_mean_shape() -> None:
    y = points(30, 3)
    regressor = fit(np.ones((30, 2, 2)), y, np.arange(20)[None], 1e-3, CANONICAL)
    np.testing.assert_allclose(regressor.predict(0, np.ones((10, 2, 2))), np.broadcast_to(y[:20].mean(0), (10, 3, 2)))


def test_repeats_in_one_call_equal_one_call_a_repeat() -> None:
    x, y = affine_pair()
    y = y + points(60, 3, seed=7)
    y[::7, 1] = np.nan
    x[3, 2] = np.nan
    rows = np.stack([np.random.default_rng(r).permutation(60)[:25] for r in range(4)])
    together = fit(x, y, rows, 1e-3, CANONICAL)
    for r in range(4):
        alone = fit(x, y, rows[r : r + 1], 1e-3, CANONICAL)
        np.testing.assert_allclose(together.maps[r], alone.maps[0], atol=1e-9)
        np.testing.assert_allclose(together.fill[r], alone.fill[0], atol=1e-9)


def test_an_absent_output_point_is_fitted_on_the_images_that_have_it() -> None:
    x, y = affine_pair()
    y = y + points(60, 3, seed=3)
    holed = y.copy()
    holed[:20, 1] = np.nan
    holed[5:30, 2, 0] = np.nan  # half a point is no point
    regressor = fit(x, holed, np.arange(60)[None], 1e-3, CANONICAL)
    for point, rows in ((0, np.arange(60)), (1, np.arange(20, 60)), (2, np.r_[0:5, 30:60])):
        alone = fit(x, y[:, point : point + 1], rows[None], 1e-3, CANONICAL)
        np.testing.assert_allclose(regressor.maps[:, :, 2 * point : 2 * point + 2], alone.maps, atol=1e-9)


def test_a_point_that_no_image_has_is_left_out_of_the_mean() -> None:
    x, y = affine_pair()
    y[:, 0] = np.nan
    forward, backward = scores(case_of(x, y, 40, OLS), 0.0)
    assert forward == pytest.approx(0, abs=1e-4)
    assert np.isfinite(backward)


def test_a_gap_at_test_time_takes_the_training_mean() -> None:
    x, y = affine_pair()
    regressor = fit(x, y, np.arange(40)[None], 1e-3, CANONICAL)
    holed = x[40:].copy()
    holed[:, 1] = np.nan
    filled = holed.copy()
    filled[:, 1] = x[:40, 1].mean(axis=0)
    np.testing.assert_allclose(regressor.predict(0, holed), regressor.predict(0, filled))


def test_the_zero_rule_puts_zeros_into_gaps() -> None:
    x, y = affine_pair()
    x[::3, 1] = np.nan
    zeros = np.nan_to_num(x, nan=0.0)
    tusk = PROTOCOLS["tusk-wild"]
    holed, full = (fit(one, y, np.arange(40)[None], 0.0, tusk) for one in (x, zeros))
    np.testing.assert_allclose(holed.predict(0, x), full.predict(0, zeros))


@pytest.mark.parametrize(("name", "unit"), [("k2l-mafl", 218.0), ("k2l-ls3d", 1.0)])
def test_k2l_fills_gaps_by_svt_in_its_own_unit_and_at_test_time_by_the_means_of_what_was_seen(
    name: str, unit: float
) -> None:
    x, y = affine_pair()
    x = x * unit / 100
    x[::5, 1] = np.nan
    protocol = PROTOCOLS[name]
    regressor = fit(x, y, np.arange(40)[None], protocol.ridge, protocol)
    np.testing.assert_allclose(regressor.fill[0], np.nanmean(x[:40].reshape(40, 8), axis=0))
    whole = svt(x[:40].reshape(40, 8), unit).reshape(40, 4, 2)
    alone = fit(whole, y[:40], np.arange(40)[None], protocol.ridge, protocol)
    np.testing.assert_allclose(regressor.maps, alone.maps)
    assert [key for key, one in PROTOCOLS.items() if one.fill == "svt"] == ["k2l-mafl", "k2l-ls3d"]


def test_rows_are_exact_distinct_and_repeated() -> None:
    case = case_of(points(500, 2), points(500, 2), 400)
    rows = draw(case, 0)
    assert list(rows) == ["all", "n300"]
    np.testing.assert_array_equal(rows["all"], np.arange(400)[None])
    assert rows["n300"].shape == (10, 300)
    assert all(len(set(one)) == 300 and set(one) <= set(range(400)) for one in rows["n300"])
    assert len({tuple(one) for one in rows["n300"]}) == 10
    np.testing.assert_array_equal(rows["n300"], draw(case, 0)["n300"])
    assert (rows["n300"] != draw(case, 1)["n300"]).any()


@pytest.mark.parametrize(("train", "shape"), [(299, None), (300, (1, 300))])
def test_few_training_rows(train: int, shape: tuple[int, int] | None) -> None:
    rows = draw(case_of(points(320, 2), points(320, 2), train), 0)
    assert (rows["n300"].shape if "n300" in rows else None) == shape


def test_the_off_by_one_of_a_peer_is_only_in_its_preset() -> None:
    k2l = PROTOCOLS["k2l-mafl"]
    assert draw(case_of(points(400, 2), points(400, 2), 350, k2l), 0)["n300"].shape == (10, 301)
    assert [name for name, one in PROTOCOLS.items() if one.extra_rows] == ["k2l-mafl", "k2l-ls3d"]
    assert all(ALL in one.rows for one in PROTOCOLS.values())


def test_a_hundred_thousand_images() -> None:
    n = 100_000
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, 5, 2))
    x = y[:, np.arange(10) % 5] + 0.1 * rng.normal(size=(n, 10, 2))
    x[rng.random((n, 10)) < 0.1] = np.nan
    case = case_of(x, y, 90_000)
    forward, backward = scores(case, 1e-3)
    assert 0 < forward < 10 and 0 < backward < 10
