"""Soft-impute and singular value thresholding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uld.evaluate.completion import complete, svt


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 0.3))
def test_a_low_rank_matrix_comes_back(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    full = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 20)) + rng.normal(size=20) * 5
    holed = np.where(rng.random(full.shape) < share, np.nan, full)
    filled = complete(holed)
    gaps = np.isnan(holed)
    np.testing.assert_array_equal(filled[~gaps], full[~gaps])
    assert np.abs(filled - full)[gaps].mean() < 0.1 * np.abs(full - np.nanmean(holed, axis=0))[gaps].mean()


def test_nothing_absent_nothing_changed() -> None:
    full = np.random.default_rng(0).normal(size=(10, 4))
    np.testing.assert_allclose(complete(full), full, atol=1e-14)


def test_a_column_never_seen_and_a_matrix_without_columns() -> None:
    holed = np.random.default_rng(0).normal(size=(30, 4))
    holed[:, 2] = np.nan
    filled = complete(holed)
    np.testing.assert_allclose(filled[:, 2], 0, atol=1e-12)
    assert complete(np.full((3, 2), np.nan)).tolist() == [[0, 0]] * 3
    assert complete(np.zeros((5, 0))).shape == (5, 0)


# --- singular value thresholding ---


def low_rank(n: int, columns: int, rank: int, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, columns) around the middle of a unit square, and the same with a share of gaps."""
    rng = np.random.default_rng(seed)
    full = 0.5 + 0.1 * rng.normal(size=(n, rank - 1)) @ rng.normal(size=(rank - 1, columns))
    return full, np.where(rng.random(full.shape) < share, np.nan, full)


def by_the_paper(known: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The iteration as Cai, Candes and Shen write it, with a whole decomposition in each step."""
    tau, delta = 5 * sum(known.shape) / 2, 1.2 * known.size / observed.sum()
    dual = np.zeros_like(known)
    for _ in range(1000):
        left, values, right = np.linalg.svd(dual, full_matrices=False)
        guess = left * np.maximum(values - tau, 0) @ right
        rest = observed * (known - guess)
        if np.linalg.norm(rest) / np.linalg.norm(observed * known) < 1e-2:
            break
        dual = dual + delta * rest
    return guess


@pytest.mark.parametrize(("n", "columns", "rank"), [(60, 8, 3), (120, 20, 5), (6, 10, 2)])
def test_svt_is_the_iteration_of_the_paper(n: int, columns: int, rank: int) -> None:
    full, holed = low_rank(n, columns, rank, 0.1)
    gaps = np.isnan(holed)
    expected = by_the_paper(np.where(gaps, 0, full), ~gaps)
    np.testing.assert_allclose(svt(holed, 1.0)[gaps], expected[gaps], atol=1e-10)


@pytest.mark.parametrize("unit", [1.0, 218.0])
def test_svt_recovers_a_low_rank_matrix_with_few_gaps(unit: float) -> None:
    """As near as its tolerance of 1 % lets it, a tenth of what column means are off."""
    full, holed = low_rank(300, 20, 4, 0.05)
    gaps = np.isnan(holed)
    filled = svt(unit * holed, unit)
    np.testing.assert_array_equal(filled[~gaps], unit * full[~gaps])
    off = np.sqrt(np.mean((filled / unit - full)[gaps] ** 2))
    assert off < 0.15 * np.sqrt(np.mean((full - np.nanmean(holed, axis=0))[gaps] ** 2))


def test_svt_of_another_unit_is_another_guess() -> None:
    """The threshold is fixed: that is why a protocol names the unit of its source."""
    _, holed = low_rank(60, 8, 3, 0.1)
    np.testing.assert_allclose(svt(218 * holed, 218.0), 218 * svt(holed, 1.0))
    assert np.nanmax(np.abs(svt(218 * holed, 1.0) - 218 * svt(holed, 1.0))) > 0.01


def test_svt_leaves_a_whole_matrix_alone() -> None:
    full, _ = low_rank(10, 4, 2, 0.0)
    assert svt(full, 218.0) is full
    assert svt(np.zeros((5, 0)), 218.0).shape == (5, 0)


def test_svt_of_nothing_is_nothing() -> None:
    """A column without entries, no entry at all, and entries so small that 1000 steps do not reach the threshold."""
    _, holed = low_rank(30, 4, 2, 0.1)
    holed[:, 2] = np.nan
    np.testing.assert_allclose(svt(holed, 1.0)[:, 2], 0, atol=1e-12)
    assert svt(np.full((3, 2), np.nan), 218.0).tolist() == [[0, 0]] * 3
    assert svt(np.array([[1e-3, np.nan], [1e-3, 1e-3]]), 218.0).tolist() == [[1e-3, 0], [1e-3, 1e-3]]
