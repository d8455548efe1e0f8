"""What is kept of a clustering: centroids, exemplars and a sample, for the detector and for pictures."""

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.landmarks import Landmarks
from uld.cluster.kmeans import Clusters
from uld.cluster.spool import Table
from uld.landmarks.match import exemplars

EXEMPLARS = 8
SAMPLE = 2_000


def summarise(
    image: NDArray[np.int64],
    xy: NDArray[np.float32],
    x: Table,
    clusters: Clusters,
    rng: np.random.Generator,
) -> Landmarks:
    """Landmarks of K clusters of M points.

    Args:
        image: (M,) row of each point.
        xy: (M, 2) its position in image pixels.
        x: (M, D) what was clustered.
        clusters: of `x`.
        rng: draws the sample of `x`.
    """
    k = len(clusters.counts)
    best = exemplars(image, clusters.labels, clusters.distance)
    best = best[np.lexsort((clusters.distance[best], clusters.labels[best]))]
    label = clusters.labels[best]
    place = np.arange(len(best)) - np.searchsorted(label, label)
    near = place < EXEMPLARS
    best, label, place = best[near], label[near], place[near]
    exemplar_image = np.full((k, EXEMPLARS), -1, dtype=np.int64)
    exemplar_xy = np.full((k, EXEMPLARS, 2), np.nan, dtype=np.float32)
    exemplar_image[label, place] = image[best]
    exemplar_xy[label, place] = xy[best]
    pick = np.sort(rng.choice(len(x), min(SAMPLE, len(x)), replace=False))
    return Landmarks(
        centroids=clusters.centroids,
        counts=clusters.counts,
        exemplar_image=exemplar_image,
        exemplar_xy=exemplar_xy,
        sample=x[pick].astype(np.float16),
        sample_label=clusters.labels[pick],
    )
