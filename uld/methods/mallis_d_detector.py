"""Mallis (D), second stage: a heat map a landmark, taught with the points of its cluster (Mallis, thesis, chapter 6).

A round starts from the first stage, whose one heat map fires at any point. It gives each of K clusters of these points
a channel of its own, which then finds the landmark in every image, also where the first stage saw no point.
"""

from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import kmeans
from uld.cluster.kmeans import Clusters
from uld.cluster.quality import quality
from uld.cluster.spool import Spool, pieces
from uld.geometry import coords, heatmaps, views
from uld.landmarks import assign, label
from uld.landmarks.detect import PeakParams
from uld.landmarks.summary import summarise
from uld.losses import mallis
from uld.methods.base import Discovery, Found, Marked, Method, Source, Training
from uld.models import Head
from uld.models.heads import LearnedHead
from uld.sources.views import Ahead, Batch
from uld.training import self_training
from uld.training.fit import fit
from uld.training.self_training import Taught


@dataclass(frozen=True, config=CLOSED)
class PartsParams:
    """Training of the K heat maps."""

    steps: Annotated[int, Field(ge=0)]
    views: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]  # of the detector head
    lr_rest: Annotated[float, Field(ge=0)]  # of all else
    sigma: Annotated[float, Field(gt=0)]  # cells, of the Gaussian that a channel learns


@dataclass(frozen=True, config=CLOSED)
class MallisDDetectorParams:
    """Params of the second stage."""

    cap: Annotated[int, Field(ge=1)]  # points that k-means sees, at most
    restarts: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    detect: PeakParams  # of the first stage's heat map
    threshold: Annotated[float, Field(ge=0, le=1)]  # heat below which a landmark is missing; 0: never, as published
    train: PartsParams


class MallisDDetector(Method):
    """A landmark is a heat map."""

    Params = MallisDDetectorParams

    def __init__(self, params: MallisDDetectorParams) -> None:
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
        """Cluster the detections of a model with one heat map; of a model with K, describe what each of them finds."""
        p = self.params
        if len(rows) and source.maps(rows[:1])[1].shape[1] > 1:
            return self._channels(source, rows, count, rng)
        points = label.pool(source, rows, p.detect)
        x = points.descriptor
        clusters = kmeans.fit(x, count, rng, restarts=p.restarts, iterations=p.iterations, cap=p.cap)
        return Discovery(label.picture(points, clusters.centroids, rng), quality(x, clusters, rng))

    def _channels(self, source: Source, rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> Discovery:
        """The heat maps as clusters of one point an image."""
        parts, x, total = [], Spool(), np.zeros(1, dtype=np.float32)
        for batch in runtime.batches(rows):
            descriptors, heat = source.maps(batch)
            at, _ = tops(heat, source.inside(batch), count)
            found = F.normalize(coords.sample(descriptors, at), dim=2).cpu().numpy()
            for one in found:  # in the order of the images, whatever the batches
                total = total + one
            parts.append(source.to_image(batch, at.cpu().numpy()).reshape(-1, 2))
            x.append(found.reshape(-1, found.shape[2]))
        centroids = total / np.float32(len(rows))
        own = np.tile(np.arange(count), len(rows))
        distance = np.concatenate([((x[piece] - centroids[own[piece]]) ** 2).sum(1) for piece in pieces(len(x))])
        inertia = float(distance.sum(dtype=np.float64))
        clusters = Clusters(centroids, own, distance, np.full(count, len(rows)), inertia, distance.size)
        landmarks = summarise(np.repeat(rows, count), np.concatenate(parts), x, clusters, rng)
        return Discovery(landmarks, quality(x, clusters, rng))

    # --- label ---

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """In every image and its mirror image the detection of each cluster that is nearest to its centroid."""
        points = label.pool(source, rows, self.params.detect)
        kept, own = label.closest(points, landmarks.centroids)
        labels = label.of_pool(kept, own, landmarks.centroids)
        figures = label.census(points.per_image(source, rows), labels)
        for view in views.mirror(source.views):
            figures["flip_agreement"] = flip_agreement(source, labels, rows, view, landmarks.centroids)
        return Marked(labels, figures)

    # --- train ---

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """Cross entropy of each channel with the Gaussian of its landmark, where there is a label."""
        p, bank = self.params.train, training.bank
        one, count = self_training.trainable(head, training.name), self_training.landmarks(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(training.rng(p.steps).integers(2**31)))  # no step draws from this stream
            model = one.with_channels(count)
        taught = Taught(training.labels, bank, count, np.unique(training.labels.image))
        optimiser = torch.optim.Adam(groups(model, p))

        def draw(number: int) -> tuple[Batch, Tensor]:
            rng = training.rng(number)
            return taught.read(rng.choice(taught.images, p.views), rng)

        batches = Ahead(draw, p.steps)

        def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            batch, xy = batches(number)
            logits = batch.through(model.maps)[1]
            present = self_training.within(xy, bank.grid)
            target = heatmaps.render(xy.flatten(0, 1)[:, None], bank.grid, p.sigma).unflatten(0, xy.shape[:2])
            loss = mallis.channel_bce(logits, target, batch.inside, present)
            return loss, {"present": present.float().mean()}

        return model, fit(model, [optimiser], p.steps, step, training.state, training.name)

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """The highest cell of each heat map; a landmark is missing where that is below the threshold."""
        heat = source.maps(rows, view)[1]
        at, height = tops(heat, source.inside(rows, view), len(landmarks.centroids))
        xy, score = at.cpu().numpy(), height.cpu().numpy()
        missing = score < self.params.threshold
        seen_xy, seen = np.where(missing[..., None], np.nan, xy), np.where(missing, np.nan, score)
        return Found(seen_xy.astype(np.float32), seen.astype(np.float32), xy, score)


def tops(heat: Tensor, inside: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Highest cell of each heat map in the ROI, moved to the top of the Gaussian around it.

    Args:
        heat: (B, K, G, G) in [0, 1]. inside: (B, G, G) bool; an image without any cell inside is searched as a whole.
        count: K, as asked for.

    Returns:
        xy (B, K, 2) in cells and the heat (B, K) of the cell.

    Raises:
        ULDError: there are not K heat maps.
    """
    if heat.shape[1] != count:
        raise ULDError(
            f"the model has {heat.shape[1]} heat maps for {count} landmarks: give the row as many landmarks, and a "
            f"start whose step is mallis_d_detector."
        )
    outside = ~(inside | ~inside.flatten(1).any(1)[:, None, None])[:, None]
    # the logarithm of a Gaussian is a paraboloid, whose top the quadratic finds exactly
    surface = heat.log().masked_fill(outside, -torch.inf)
    return assign.best(heat.masked_fill(outside, -torch.inf), surface, True, heat)


def groups(head: LearnedHead, p: PartsParams) -> list[dict[str, Any]]:
    """Trained parameters for an optimiser: the detector head, and all else with a learning rate of its own."""
    own = {id(one) for one in head.detect.parameters()}
    rest = [one for one in head.parameters() if id(one) not in own]
    return [{"params": list(head.detect.parameters()), "lr": p.lr}, {"params": rest, "lr": p.lr_rest}]


def flip_agreement(
    source: Source, labels: Labels, rows: NDArray[np.int64], mirror: int, centroids: NDArray[np.float32]
) -> float:
    """How far a mirrored point's landmark follows from the point's own: the share of points that go with the majority.

    In the mirror image a left eye looks like a right one, so each landmark has one that it turns into. The thesis takes
    mirrored labels from the majority; here they are detected in the mirror image, and this tells whether it matters.

    Args:
        mirror: the view that shows the mirror image.
    """
    count = len(centroids)
    before, after = [], Spool()
    for batch in runtime.batches(rows):
        xy = label.table(labels, batch, 0, count)
        known = np.isfinite(xy).all(2)
        maps = source.describe(batch, mirror)
        cells = torch.from_numpy(source.to_cells(batch, np.nan_to_num(xy), mirror)).to(maps.device)
        x = F.normalize(coords.sample(maps, cells), dim=2).cpu().numpy()
        before.append(np.nonzero(known)[1])
        after.append(x[known])
    turned, _ = kmeans.nearest(after, centroids)
    votes = np.zeros((count, count), dtype=np.int64)
    np.add.at(votes, (np.concatenate(before), turned), 1)
    return float(votes.max(1).sum() / max(1, votes.sum()))
