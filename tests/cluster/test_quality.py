"""Label-free figures of clusterings whose quality is known."""

import numpy as np
import pytest
import torch

from uld.cluster import kmeans, quality


def figures(x: np.ndarray, k: int) -> dict[str, float | int]:
    clusters = kmeans.fit(x, k, np.random.default_rng(0), restarts=3, iterations=30, cap=10**6)
    return quality.quality(x, clusters, np.random.default_rng(1))


def blobs(spread: float) -> np.ndarray:
    rng = np.random.default_rng(2)
    centre = np.repeat(10 * np.eye(3), [100, 60, 40], axis=0)
    return (centre + spread * rng.normal(size=centre.shape)).astype(np.float32)


def test_sizes_and_scores() -> None:
    tight, loose = figures(blobs(0.1), 3), figures(blobs(2.0), 3)
    assert (tight["points"], tight["largest_cluster"], tight["smallest_cluster"]) == (200, 100, 40)
    assert tight["empty_clusters"] == 0
    assert tight["silhouette"] > 0.97 and tight["silhouette"] > loose["silhouette"]
    assert tight["calinski_harabasz"] > loose["calinski_harabasz"]


def test_sample_bounds_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures(blobs(1.0), 3)
    monkeypatch.setattr(quality, "SAMPLE", 80)
    part = figures(blobs(1.0), 3)
    assert part["silhouette"] != whole["silhouette"]
    assert part["silhouette"] == pytest.approx(whole["silhouette"], abs=0.1)
    assert part == figures(blobs(1.0), 3)


@pytest.mark.parametrize("k", [1, 200])
def test_undefined_scores_are_absent(k: int) -> None:
    assert set(figures(blobs(1.0), k)) == {"points", "inertia", "smallest_cluster", "largest_cluster", "empty_clusters"}


def test_empty_clusters() -> None:
    found = figures(np.repeat(np.eye(2, dtype=np.float32), 10, axis=0), 4)
    assert found["empty_clusters"] + 2 <= 4 and found["smallest_cluster"] >= 1


class Halves:
    """Images whose left half has one descriptor and whose right half has another."""

    def describe(self, rows: np.ndarray, view: int = 0) -> torch.Tensor:
        maps = torch.zeros(len(rows), 2, 4, 8)
        maps[:, 0, :, :4], maps[:, 1, :, 4:] = 3, 5
        return maps


def at(x0: np.ndarray, x1: np.ndarray):
    """Two landmarks an image, at x0 and x1 of its row."""
    return lambda rows: np.stack([np.stack([x[rows], 0 * x[rows] + 1], 1) for x in (x0, x1)], 1).astype(np.float32)


def test_landmarks_that_stay_on_their_half_are_apart() -> None:
    rows, rng = np.arange(30), np.random.default_rng(0)
    left, right = rng.uniform(0, 2.9, 30), rng.uniform(4.1, 7, 30)
    told = quality.of_landmarks(Halves(), at(left, right), rows, np.random.default_rng(1))
    assert told["landmark_silhouette"] == pytest.approx(1)
    mixed = quality.of_landmarks(
        Halves(), at(rng.permuted(left + 4 * (rows % 2)), right), rows, np.random.default_rng(1)
    )
    assert mixed["landmark_silhouette"] < 0.5 and mixed["landmark_calinski_harabasz"] < 100


def test_landmarks_of_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SAMPLE", 10)
    asked: list[int] = []

    def find(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return np.tile(np.float32([[[1, 1], [6, 1]]]), (len(rows), 1, 1))

    quality.of_landmarks(Halves(), find, np.arange(100, 130), np.random.default_rng(1))
    assert len(set(asked[1:])) == 5 and min(asked) >= 100


def test_no_landmarks_no_scores() -> None:
    none = lambda rows: np.zeros((len(rows), 0, 2), np.float32)  # noqa: E731
    assert quality.of_landmarks(Halves(), none, np.arange(5), np.random.default_rng(0)) == {}
