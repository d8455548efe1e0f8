"""Figures of a clustering that need no annotation (quality.json of docs/artifacts.md)."""

import numpy as np
from numpy.typing import NDArray

from uld.cluster.kmeans import Clusters
from uld.cluster.spool import Table

SAMPLE = 10_000  # points that the two scores are computed on: the silhouette is quadratic in them


def quality(x: Table, clusters: Clusters, rng: np.random.Generator) -> dict[str, float | int]:
    """Sizes, inertia, silhouette (-1 to 1) and Calinski-Harabasz score (from 0), higher is better for both scores.

    `smallest_cluster` is among those that are not empty. The scores are absent where they are not defined: fewer than
    two clusters, or none with two points.

    Args:
        x: (M, D) the points of `clusters`.
        clusters: result of `kmeans.fit` on `x`.
        rng: draws the sample for the scores.
    """
    filled = clusters.counts[clusters.counts > 0]
    figures: dict[str, float | int] = {
        "points": clusters.used,
        "inertia": clusters.inertia,
        "smallest_cluster": int(filled.min()),
        "largest_cluster": int(filled.max()),
        "empty_clusters": len(clusters.counts) - len(filled),
    }
    pick = np.sort(rng.choice(len(x), min(SAMPLE, len(x)), replace=False))
    return figures | scores(x[pick], clusters.labels[pick])


def scores(x: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Silhouette and Calinski-Harabasz score; nothing where they are not defined."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return {}
    # two seconds, and whoever only finds landmarks needs no scores
    import sklearn
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    with sklearn.config_context(working_memory=64):  # MiB of pairwise distances at a time
        silhouette = float(silhouette_score(x, labels))
    return {"silhouette": silhouette, "calinski_harabasz": float(calinski_harabasz_score(x, labels))}
