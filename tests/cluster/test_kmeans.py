"""k-means: scikit-learn as the reference, no hidden sampling, identities under a warm start."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from uld.base.errors import ULDError
from uld.cluster import kmeans, search
from uld.cluster.kmeans import fit

CENTRES = 20 * np.random.default_rng(7).normal(size=(6, 5)).astype(np.float32)


def blobs(seed: int, points: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.choice(6, points, p=[0.3, 0.25, 0.2, 0.12, 0.08, 0.05])
    return (CENTRES[label] + rng.normal(size=(points, 5))).astype(np.float32), label


def run(x: np.ndarray, k: int, seed: int = 0, **changes: Any) -> kmeans.Clusters:
    chosen: dict[str, Any] = {"restarts": 5, "iterations": 50, "cap": 10**6} | changes
    return fit(x, k, np.random.default_rng(seed), **chosen)


@pytest.mark.parametrize("k", [6, 12])
def test_inertia_of_scikit_learn(k: int) -> None:
    x, _ = blobs(0)
    ours = run(x, k)
    theirs = KMeans(k, n_init=5, random_state=0).fit(x)
    assert ours.inertia < 1.01 * theirs.inertia_


def test_fields_agree_with_each_other() -> None:
    x, truth = blobs(1)
    found = run(x, 6)
    own = ((x - found.centroids[found.labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.distance, own, rtol=1e-3, atol=1e-3)
    assert found.inertia == pytest.approx(own.sum(), rel=1e-4)
    np.testing.assert_array_equal(found.counts, np.bincount(found.labels, minlength=6))
    assert (np.diff(found.counts) <= 0).all()
    means = np.stack([x[found.labels == k].mean(axis=0) for k in range(6)])
    np.testing.assert_allclose(found.centroids, means, atol=1e-3)
    assert len(np.unique(found.labels * 6 + truth)) == 6  # one cluster a blob


def test_all_points_are_used_and_a_cap_is_said(caplog: pytest.LogCaptureFixture) -> None:
    x, _ = blobs(2, points=20_000)  # faiss alone would take 256 a cluster
    with caplog.at_level(logging.WARNING):
        found = run(x, 2)
        assert found.used == 20_000 and not caplog.messages
        # with every point used, two clusters have their exact means
        for k in range(2):
            np.testing.assert_allclose(found.centroids[k], x[found.labels == k].mean(axis=0), atol=2e-3)
        capped = run(x, 6, cap=500)
    assert capped.used == 500 and len(capped.labels) == 20_000 and "500 of 20000" in caplog.text


def test_same_seed_same_result_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(3)
    first = run(x, 8, seed=4, cap=1000, restarts=2)
    monkeypatch.setenv("ULD_THREADS", "2")
    monkeypatch.setattr(search, "ONE_THREAD", 0)
    before = torch.get_num_threads()
    second = run(x, 8, seed=4, cap=1000, restarts=2)
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.centroids, run(x, 8, seed=5, cap=1000, restarts=2).centroids)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), seed=st.integers(0, 100))
def test_warm_start_keeps_identities(order: list[int], seed: int) -> None:
    x, truth = blobs(seed, points=600)
    found = run(x, 6, seed, init=CENTRES[order] + 0.3)
    np.testing.assert_array_equal(np.array(order)[found.labels], truth)


def test_warm_start_revives_empty_clusters_at_the_farthest_points() -> None:
    x, _ = blobs(5)
    init = CENTRES.copy()
    init[2] = init[4] = 1000.0
    found = run(x, 6, init=init)
    assert (found.counts > 0).all()
    for k in (0, 1, 3, 5):
        np.testing.assert_allclose(found.centroids[k], CENTRES[k], atol=0.5)
    assert {int(np.linalg.norm(CENTRES - found.centroids[k], axis=1).argmin()) for k in (2, 4)} == {2, 4}
    assert init[2, 0] == 1000.0


def test_fewer_distinct_points_than_clusters() -> None:
    found = run(np.repeat(np.eye(3, dtype=np.float32), 20, axis=0), 5)
    assert found.inertia == pytest.approx(0, abs=1e-3) and found.counts.sum() == 60
    assert run(np.eye(3, dtype=np.float32), 3).inertia == 0


@pytest.mark.parametrize("cap", [100, 3])
def test_too_few_points(cap: int) -> None:
    with pytest.raises(ULDError, match=r"5 clusters of 4 points.*fewer landmarks"):
        run(np.zeros((4, 2), dtype=np.float32), 5, cap=cap)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    x, _ = blobs(6, points=50)
    x[3, 1] = x[7, 0] = x[7, 2] = bad
    with pytest.raises(ULDError, match="2 of 50 descriptors are not finite"):
        run(x, 3)
