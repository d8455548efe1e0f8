"""Baseline: clusters of positions, blind to the image. What any method must beat to have discovered something."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.quality import quality
from uld.landmarks.draw import draw
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Found, Method, Source


@dataclass(frozen=True, config=CLOSED)
class PositionParams:
    """Params of the position baseline.

    points: random pixels an image. cap: most points in total. restarts, iterations: of k-means.
    """

    points: Annotated[int, Field(ge=1)]
    cap: Annotated[int, Field(ge=1)]
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]


class Position(Method):
    """A landmark is a fixed place in the ROI: the centroid (K, 2) of a cluster of random pixels, in cells."""

    Params = PositionParams

    def __init__(self, params: PositionParams) -> None:
        self.params = params

    # --- discover ---

    def discover(
        self,
        source: Source,
        rows: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Discovery:
        """Cluster the positions of random pixels of the training images."""
        p = self.params
        positions = draw(rows, p.points, p.cap, rng)
        parts = [xy.flatten(0, 1).cpu().numpy() for _, xy in positions.batches(source)]
        xy = np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.float32)
        clusters = kmeans.fit(xy, count, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap)
        at = source.to_image(positions.image, xy[:, None])[:, 0]
        landmarks = summarise(positions.image, at, xy, clusters, rng)
        return Discovery(landmarks, quality(xy, clusters, rng))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """The same cells in every image, with score 1."""
        xy = np.repeat(landmarks.centroids[None], len(rows), axis=0)
        score = np.ones(xy.shape[:2], dtype=np.float32)
        return Found(xy, score, xy, score)
