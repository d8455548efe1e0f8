"""ZeroShot: clusters of descriptors at random pixels, no training at all (D-ULD, CVPR 2024, section 3.1).

Where the paper is silent or random: descriptors have unit length; at test time all cells are matched and not a random
subset, which makes the result the same every time.
"""

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
from uld.landmarks import assign
from uld.landmarks.draw import describe, draw
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Found, Method, Source


@dataclass(frozen=True, config=CLOSED)
class ZeroShotParams:
    """Params of ZeroShot.

    points: random pixels an image. cap: most points in total. restarts, iterations: of k-means.
    refine: whether landmarks lie between cells.
    """

    points: Annotated[int, Field(ge=1)]
    cap: Annotated[int, Field(ge=1)]
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    refine: bool


class ZeroShot(Method):
    """A landmark is a cluster of descriptors; in an image it is the pixel nearest to the cluster's centroid."""

    Params = ZeroShotParams

    def __init__(self, params: ZeroShotParams) -> None:
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
        """Cluster the descriptors of random pixels of the training images."""
        p = self.params
        positions = draw(rows, p.points, p.cap, rng)
        xy, x = describe(source, positions)
        clusters = kmeans.fit(x, count, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap)
        at = source.to_image(positions.image, xy[:, None])[:, 0]
        landmarks = summarise(positions.image, at, x, clusters, rng)
        return Discovery(landmarks, quality(x, clusters, rng))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Exemplar assignment over all cells of the images."""
        match = assign.dense(
            source.describe(rows, view), source.inside(rows, view), landmarks.centroids, self.params.refine
        )
        return Found(match.xy, match.score, match.dense_xy, match.dense_score)
