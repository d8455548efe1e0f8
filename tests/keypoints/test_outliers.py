"""Scores of points against a plain loop, and planted outliers."""

import numpy as np
import pytest

from uld.cluster.spool import Spool
from uld.keypoints import outliers
from uld.keypoints.outliers import scores, typical


def unit(rng: np.random.Generator, count: int, dims: int = 16) -> np.ndarray:
    x = rng.normal(size=(count, dims)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def alike(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points that look like one of three things, but for noise."""
    x = unit(rng, 3)[rng.integers(0, 3, count)] + 0.02 * rng.normal(size=(count, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def loop(x: np.ndarray, references: np.ndarray) -> list[float]:
    found = []
    for one in x:
        squared = sorted(float(((one - other) ** 2).sum()) for other in references)
        found.append(float(np.median(squared[:100])))
    return found


@pytest.mark.parametrize("count", [1, 2, 99, 100, 250])
def test_scores_equal_the_loop(count: int) -> None:
    x = unit(np.random.default_rng(count), count)
    found = scores(x, np.random.default_rng(0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, loop(x, x), atol=1e-5)


def test_of_many_points_some_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "REFERENCES", 120)
    x = unit(np.random.default_rng(0), 300)
    drawn = np.random.default_rng(5).choice(300, 120, replace=False)
    np.testing.assert_allclose(scores(x, np.random.default_rng(5)), loop(x, x[drawn]), atol=1e-5)
    assert not np.array_equal(scores(x, np.random.default_rng(5)), scores(x, np.random.default_rng(6)))


@pytest.mark.parametrize("piece", [64, 2**17])
def test_descriptors_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("uld.cluster.spool.PIECE", piece)
    x, spool = unit(np.random.default_rng(0), 300), Spool()
    for start in range(0, 300, 70):
        spool.append(x[start : start + 70])
    np.testing.assert_allclose(scores(spool, np.random.default_rng(0)), loop(x, x), atol=1e-5)


@pytest.mark.parametrize("references", [100_000, 400])
@pytest.mark.parametrize("seed", range(3))
def test_planted_outliers_are_dropped(monkeypatch: pytest.MonkeyPatch, seed: int, references: int) -> None:
    monkeypatch.setattr(outliers, "REFERENCES", references)
    rng = np.random.default_rng(seed)
    order = rng.permutation(1000)
    x = np.concatenate([alike(rng, 900), unit(rng, 100)])[order]
    assert (typical(x, 0.1, rng) == (order < 900)).all()


@pytest.mark.parametrize("share", [0, 0.1, 0.25, 0.4, 0.99])
@pytest.mark.parametrize("count", [1, 2, 5, 10, 200])
def test_the_share_is_of_all_points(count: int, share: float) -> None:
    x = unit(np.random.default_rng(count), count)
    score, kept = scores(x, np.random.default_rng(0)), typical(x, share, np.random.default_rng(0))
    dropped = int((~kept).sum())
    assert kept.dtype == bool and kept.any() and (share or not dropped)
    assert not dropped or score[kept].max() < score[~kept].min()
    assert dropped < share * count + 1
    if len(np.unique(score)) == count:  # of few points many are of equal score
        assert dropped > share * count - 1


def test_points_that_are_all_alike_stay() -> None:
    assert typical(np.ones((7, 4), np.float32) / 2, 0.4, np.random.default_rng(0)).all()
