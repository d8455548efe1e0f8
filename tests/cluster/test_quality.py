"""Label-free figures of clusterings whose quality is known."""

import numpy as np
import pytest

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
