"""ZeroShot: clusters of descriptors at random pixels, no training at all (D-ULD, CVPR 2024, section 3.1).

Where the paper is silent or random: descriptors have unit length; at test time all cells are matched and not a random
subset, which makes the result the same every time.
"""

from typing import Annotated

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld import coords
from uld.artifacts import Landmarks
from uld.cluster import assign, kmeans
from uld.cluster.draw import Draw, draw
from uld.cluster.quality import quality
from uld.cluster.summary import summarise
from uld.methods.base import Discovery, Found, Method, Source
from uld.params import CLOSED


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

    def discover(self, source: Source, rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> Discovery:
        """Cluster the descriptors of random pixels of the training images."""
        p = self.params
        positions = draw(rows, p.points, p.cap, rng)
        xy, x = describe(source, positions)
        clusters = kmeans.fit(x, count, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap)
        landmarks = summarise(source, positions.image, xy, x, clusters, rng)
        return Discovery(landmarks, quality(x, clusters, rng))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Exemplar assignment over all cells of the images."""
        match = assign.dense(
            source.describe(rows, view), source.inside(rows, view), landmarks.centroids, self.params.refine
        )
        return Found(match.xy, match.score, match.dense_xy, match.dense_score)


def describe(source: Source, positions: Draw) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Positions (M, 2) in cells and their bilinear descriptors (M, D) of unit length."""
    xy = np.empty((positions.uniform[..., 0].size, 2), dtype=np.float32)
    x = np.empty((0, 0), dtype=np.float32)
    done = 0
    for rows, at in positions.batches(source):
        part = F.normalize(coords.sample(source.describe(rows), at), dim=2).flatten(0, 1).cpu().numpy()
        if not done:
            x = np.empty((len(xy), part.shape[1]), dtype=np.float32)
        xy[done : done + len(part)] = at.flatten(0, 1).cpu().numpy()
        x[done : done + len(part)] = part
        done += len(part)
    return xy, x
