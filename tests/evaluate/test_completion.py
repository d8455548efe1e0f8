"""Soft-impute."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from uld.evaluate.completion import complete


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
