"""Landmarks as clusters of points of the training images (D-ULD, CVPR 2024, section 3.1).

What goes beyond the papers here has a parameter that switches it off: random pixels in place of detections (`pool`);
more clusters than landmarks, of which the most equivariant stay (`over_clustering`); centroids that move to their
exemplars (`recentre`).
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.cluster.spool import Spool
from uld.landmarks import label
from uld.landmarks.detect import PeakParams
from uld.landmarks.draw import DrawParams, describe, draw
from uld.landmarks.label import Pool
from uld.landmarks.recentre import equivariance_error, means_at, recentre
from uld.landmarks.seen import Seen, keep
from uld.methods.base import Discovery, Task


@dataclass(frozen=True, config=CLOSED)
class ClustersParams(DrawParams, KMeansParams):
    """How points become landmarks."""

    pool: Literal["detections", "pixels"]  # what is clustered, where no earlier round has left clusters
    over_clustering: Annotated[int, Field(ge=1)]  # clusters a landmark; 1: as in the papers
    recentre: Annotated[int, Field(ge=0)]  # times that new centroids move to their exemplars; 0: as in the papers
    images: Annotated[int, Field(ge=1)]  # held in memory for both, at most


def discover(task: Task, params: ClustersParams, detect: PeakParams, previous: Labels | None) -> Discovery:
    """Cluster points of the training images.

    Args:
        previous: labels whose landmarks keep their numbers; None: the clusters are new.
    """
    points = pool(task, params, detect)
    chosen = np.sort(task.rng.permutation(task.rows)[: params.images])
    kept = [keep(task.source, chosen, view, heat=False) for view in task.source.views.flips]
    centroids = _centroids(task, params, points, kept, previous)
    off = equivariance_error(task.source, kept[0], centroids)
    steady = np.sort(np.argsort(off, kind="stable")[: task.count])
    clusters = kmeans.of(points.descriptor, centroids[steady])
    figures = quality(points.descriptor, clusters, task.rng)
    figures["equivariance_error"] = float(off[steady].mean())
    figures["centroid_norm"] = float(np.linalg.norm(clusters.centroids, axis=1).mean())
    return Discovery(label.picture(points, clusters.centroids, task.rng), figures)


def pool(task: Task, params: ClustersParams, detect: PeakParams) -> Pool:
    """Detections or random pixels of the training images and their mirror images."""
    source = task.source
    if params.pool == "detections" and source.detects:
        return label.detected(task, detect)
    found, spool = [], Spool()
    for view in source.views.flips:
        positions = draw(task.rows, params, task.rng)
        cells, x = describe(source, positions, view)
        xy = source.to_image(positions.image, cells[:, None], view)[:, 0]
        found.append((positions.image, np.full(len(xy), view.flipped), xy))
        spool.append(x)
    image, flipped, xy = (np.concatenate(column) for column in zip(*found, strict=True))
    return Pool(image, flipped, xy, spool)


def _centroids(
    task: Task, params: ClustersParams, points: Pool, kept: list[Seen], previous: Labels | None
) -> NDArray[np.float32]:
    """Centroids (n, D) of the last round's landmarks, or of n = K x `over_clustering` new clusters."""
    p, x = params, points.descriptor
    if previous is None or previous.count != task.count:
        many = kmeans.fitted(x, task.count * p.over_clustering, task.rng, p)
        return recentre(kept, many.centroids, p.recentre)
    centroids = means_at(kept, task.source, previous, task.count)
    # some of many clusters do not share out all points, so k-means would move them; a lost one needs some
    if p.over_clustering == 1 or not centroids.any(1).all():
        centroids = kmeans.fitted(x, task.count, task.rng, p, centroids).centroids
    return centroids
