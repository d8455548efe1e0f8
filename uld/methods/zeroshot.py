"""ZeroShot: clusters of descriptors at random pixels, no training at all (D-ULD, CVPR 2024, section 3.1).

Where the paper is silent or random: descriptors have unit length; at test time all cells are matched and not a random
subset, which makes the result the same every time.
"""

from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import KMeansParams
from uld.cluster.quality import quality
from uld.geometry.frames import Rows
from uld.landmarks import match
from uld.landmarks.draw import DrawParams, describe, draw
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Method, Task
from uld.sources.source import Source
from uld.sources.views import View


@dataclass(frozen=True, config=CLOSED)
class ZeroShotParams(DrawParams, KMeansParams):
    """Params of ZeroShot."""

    refine: bool  # whether landmarks lie between cells


class ZeroShot(Method):
    """A landmark is a cluster of descriptors; in an image it is the pixel nearest to the cluster's centroid."""

    Cluster = ZeroShotParams
    params: ZeroShotParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """Cluster the descriptors of random pixels of the training images."""
        source, p = task.source, self.params
        positions = draw(task.rows, p, task.rng)
        xy, x = describe(source, positions, source.views.plain)
        clusters = kmeans.fitted(x, task.count, task.rng, p)
        at = source.to_image(positions.image, xy[:, None], source.views.plain)[:, 0]
        landmarks = summarise(positions.image, at, x, clusters, task.rng)
        return Discovery(landmarks, quality(x, clusters, task.rng))

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """Exemplar assignment over all cells of the images."""
        seen, inside = source.describe(rows, view), source.inside(rows, view)
        return match.dense(seen, inside, landmarks.centroids, refine=self.params.refine, anywhere=True).found()
