"""Baseline: clusters of positions, blind to the image. What any method must beat to have discovered something."""

import numpy as np
from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.geometry.frames import Rows
from uld.landmarks.draw import DrawParams, draw
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Method, Task
from uld.sources.source import Source
from uld.sources.views import View


@dataclass(frozen=True, config=CLOSED)
class PositionParams(DrawParams, KMeansParams):
    """Params of the position baseline."""


class Position(Method):
    """A landmark is a fixed place in the ROI: the centroid (K, 2) of a cluster of random pixels, in cells."""

    Cluster = PositionParams
    params: PositionParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster the positions of random pixels of the training images."""
        source, p = task.source, self.params
        positions = draw(task.rows, p, task.rng)
        parts = [xy.flatten(0, 1).cpu().numpy() for _, xy in positions.batches(source, source.views.plain)]
        xy = np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.float32)
        clusters = kmeans.fitted(xy, task.count, task.rng, p)
        at = source.to_image(positions.image, xy[:, None], source.views.plain)[:, 0]
        landmarks = summarise(positions.image, at, xy, clusters, task.rng)
        return Discovery(landmarks, quality(xy, clusters, task.rng))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """The same cells in every image, with score 1."""
        xy = np.repeat(landmarks.centroids[None], len(rows), axis=0)
        score = np.ones(xy.shape[:2], dtype=np.float32)
        return Found(xy, score, xy, score)
