"""The clusters that given centroids make of points."""

import numpy as np

from uld.cluster import kmeans


def test_clusters_of_given_centroids_by_hand() -> None:
    x = np.array([[0, 0], [1, 0], [4, 1], [9, 9], [2.4, 0]], np.float32)
    centroids = np.array([[50, 50], [0, 0], [5, 0]], np.float32)
    found = kmeans.of(x, centroids)
    assert found.labels.tolist() == [1, 1, 2, 2, 1] and found.labels.dtype == np.int64
    np.testing.assert_allclose(found.distance, [0, 1, 2, 97, 5.76], rtol=1e-6)  # squared
    assert found.counts.tolist() == [0, 3, 2]  # in the order given, an empty one too
    assert abs(found.inertia - 105.76) < 1e-4
    assert found.used == 5
    np.testing.assert_array_equal(found.centroids, centroids)


def test_of_what_was_fitted() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    fitted = kmeans.fit(x, 7, np.random.default_rng(1), restarts=2, iterations=10, cap=1000)
    found = kmeans.of(x, fitted.centroids)
    for name in ("labels", "distance", "counts", "inertia", "used"):
        np.testing.assert_array_equal(getattr(found, name), getattr(fitted, name))


def test_of_no_points() -> None:
    found = kmeans.of(np.empty((0, 2), np.float32), np.eye(2, dtype=np.float32))
    assert found.labels.shape == found.distance.shape == (0,) and found.counts.tolist() == [0, 0] and found.inertia == 0
