"""D-ULD: rounds of clustering detected points and training on the clusters (D-ULD, CVPR 2024, section 3.2).

Each round marks the exemplars of K clusters in every training image and in its mirror image, and trains the detector
to fire there and the descriptors to agree there. What this file adds to the paper, each to be switched off by its
parameter: more clusters than landmarks, of which the steadiest stay (`surplus`), centroids that move to their exemplars
(`recentre`), labels where the detector is silent (`fill`), and dense matches that lean to its heat (`detect.heat`).
"""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import Clusters
from uld.cluster.quality import quality
from uld.cluster.spool import Spool, Table
from uld.geometry import views
from uld.landmarks import assign, label
from uld.landmarks.detect import DetectParams
from uld.landmarks.draw import describe, draw
from uld.landmarks.label import Pool
from uld.landmarks.recentre import hold, means_at, recentre, wander
from uld.methods.base import Discovery, Found, Marked, Method, Source, Training
from uld.models import Head
from uld.training import self_training
from uld.training.self_training import TrainParams


@dataclass(frozen=True, config=CLOSED)
class DULDParams:
    """Params of D-ULD."""

    pool: Literal["detections", "pixels"]  # what is clustered in the first round; later ones go on from its clusters
    points: Annotated[int, Field(ge=1)]  # random pixels a view, of pool `pixels`
    cap: Annotated[int, Field(ge=1)]  # points that k-means sees, at most
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    surplus: Annotated[int, Field(ge=1)]  # clusters a landmark; 1: as in the paper
    recentre: Annotated[int, Field(ge=0)]  # times that the first round's centroids move to their exemplars; 0: paper
    images: Annotated[int, Field(ge=1)]  # held in memory for both, at most
    detect: DetectParams
    # cells: a detection farther from the dense match of its landmark is no label; null: every one is
    join: Annotated[float, Field(gt=0)] | None
    # where no detection is a label the dense match is, but for this share of the worst; null: never
    fill: Annotated[float, Field(ge=0, le=1)] | None
    train: TrainParams


class DULD(Method):
    """A landmark is a cluster of detected points."""

    Params = DULDParams

    def __init__(self, params: DULDParams) -> None:
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
        """Cluster points of the training images; landmarks of an earlier round keep their numbers."""
        p = self.params
        points = self._pool(source, rows, rng)
        x = points.descriptor
        chosen = np.sort(rng.permutation(rows)[: p.images])
        held = [hold(source, chosen, view) for view in label.hands(source)]
        if previous is not None and previous.label.max(initial=-1) + 1 == count:
            centroids = means_at(held, source, previous, count)
            # the kept ones of a surplus do not share out all points, so k-means would move them; a lost one needs some
            if p.surplus == 1 or not centroids.any(1).all():
                centroids = self._fit(x, count, rng, centroids).centroids
        else:
            centroids = recentre(held, self._fit(x, count * p.surplus, rng).centroids, p.recentre)
        turned = views.turned(source.mirrored)
        off = wander(source, held, turned, centroids) if turned else np.zeros(len(centroids))
        kept = np.sort(np.argsort(off, kind="stable")[:count])
        clusters = kmeans.of(x, centroids[kept])
        figures = quality(x, clusters, rng) | {"wander": float(off[kept].mean())}
        figures["centroid_norm"] = float(np.linalg.norm(clusters.centroids, axis=1).mean())
        return Discovery(label.picture(points, clusters.centroids, rng), figures)

    def _pool(self, source: Source, rows: NDArray[np.int64], rng: np.random.Generator) -> Pool:
        """Detections or random pixels of the training images and their mirror images."""
        p = self.params
        if p.pool == "detections" and source.detects:
            return label.pool(source, rows, p.detect)
        found, spool = [], Spool()
        for view in label.hands(source):
            positions = draw(rows, p.points, p.cap, rng)
            cells, x = describe(source, positions, view)
            xy = source.to_image(positions.image, cells[:, None], view)[:, 0]
            found.append((positions.image, np.full(len(xy), view), xy))
            spool.append(x)
        image, hand, xy = (np.concatenate(column) for column in zip(*found, strict=True))
        return Pool(image, hand, xy, spool)

    def _fit(self, x: Table, k: int, rng: np.random.Generator, init: NDArray[np.float32] | None = None) -> Clusters:
        p = self.params
        return kmeans.fit(x, k, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap, init=init)

    # --- label ---

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """Exemplar detections, and dense matches where they are wanted, in every image and its mirror image.

        In the first round, if dense matches may stand in, they alone do: the detector has not met these landmarks yet.
        """
        p = self.params
        join = -1 if previous is None and p.fill is not None else p.join  # no distance is that small
        marked = [label.mark(source, rows, view, landmarks.centroids, p.detect) for view in label.hands(source)]
        labels = label.to_labels(source, marked, join, p.fill)
        return Marked(labels, label.health(source, marked, labels, previous))

    # --- train ---

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """Detector: squared error against Gaussians. Descriptors: contrastive loss."""
        return self_training.train(head, training, self.params.train)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Exemplar assignment of the detected points; beside it the dense match of every landmark."""
        if not source.detects:
            match = assign.dense(source.describe(rows, view), source.inside(rows, view), landmarks.centroids, True)
            return Found(match.xy, match.score, match.best_xy, match.best_score)
        one = label.mark(source, rows, view, landmarks.centroids, self.params.detect)
        return Found(one.xy, one.score, one.dense_xy, one.dense_score)

    def match(
        self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0
    ) -> NDArray[np.float32]:
        """The dense match of every landmark."""
        if not source.detects:
            return self.find(source, landmarks, rows, view).dense_xy
        return label.match(source, rows, view, landmarks.centroids, self.params.detect)
