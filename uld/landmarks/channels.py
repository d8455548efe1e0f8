"""Landmarks of models with a heat map each."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.base import progress
from uld.base.errors import ULDError
from uld.cluster import kmeans
from uld.cluster.kmeans import Clusters
from uld.cluster.quality import quality
from uld.cluster.spool import Spool, Table, pieces
from uld.geometry import sampling
from uld.geometry.frames import Rows
from uld.landmarks import label, match
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Task
from uld.sources.source import Source
from uld.sources.views import View


def discovery(task: Task, average: bool) -> Discovery:
    """The heat maps as clusters of one point an image.

    Args:
        average: over each image and its mirror image.
    """
    source, rows, count, view = task.source, task.rows, task.count, task.source.views.plain
    turns = turned(task) if average else None
    parts, x, total = [], Spool(), np.zeros(1, dtype=np.float32)
    for batch in progress.batches("finding landmarks", rows):
        maps = source.maps(batch, view)
        heat = maps.heat if turns is None else averaged(source, batch, view, maps.heat, turns)
        at, _ = tops(heat, source.inside(batch, view), count)
        found = F.normalize(sampling.sample(maps.looks, at), dim=2).cpu().numpy()
        for one in found:  # in the order of the images, whatever the batches
            total = total + one
        parts.append(source.to_image(batch, at.cpu().numpy(), view).reshape(-1, 2))
        x.append(found.reshape(-1, found.shape[2]))
    clusters = of_labels(x, np.tile(np.arange(count), len(rows)), total / np.float32(len(rows)))
    landmarks = summarise(np.repeat(rows, count), np.concatenate(parts), x, clusters, task.rng)
    return Discovery(replace(landmarks, mirror=turns), quality(x, clusters, task.rng))


def turned(task: Task) -> NDArray[np.int64]:
    """Which heat map (K,) of the mirror image fires where each one of the image does, in most training images.

    The highest of the mirror image is taken at each landmark's place; the thesis takes the majority among labels.
    """
    source, count = task.source, task.count
    plain = source.views.plain
    votes = np.zeros((count, count), dtype=np.int64)
    for batch in progress.batches("mirror images", task.rows):
        inside = source.inside(batch, plain)
        at, _ = tops(source.maps(batch, plain).heat, inside, count)
        other, _ = tops(_unmirrored(source, batch, plain), inside, count)
        nearest = torch.cdist(at, other).argmin(2).cpu().numpy()
        np.add.at(votes, (np.tile(np.arange(count), len(batch)), nearest.ravel()), 1)
    return votes.argmax(1)


def averaged(source: Source, rows: Rows, view: View, heat: Tensor, turns: NDArray[np.int64]) -> Tensor:
    """Mean (B, K, G, G) of the heat of a view and of its mirror image, each landmark with what it turns into."""
    order = torch.from_numpy(turns).to(heat.device)
    return (heat + _unmirrored(source, rows, view)[:, order]) / 2


def _unmirrored(source: Source, rows: Rows, view: View) -> Tensor:
    """Heat (B, K, G, G) of the mirror image, each cell where the view shows the same place."""
    return source.maps(rows, source.views.mirror(view)).heat.flip(-1)


def of_labels(x: Table, own: NDArray[np.int64], centroids: NDArray[np.float32]) -> Clusters:
    """Clusters of points whose labels are given, and not by the nearest centroid.

    Args:
        x: (M, D). own: (M,) cluster of each point. centroids: (K, D) of the clusters.
    """
    distance = np.concatenate([((x[piece] - centroids[own[piece]]) ** 2).sum(1) for piece in pieces(len(x))])
    inertia = float(distance.sum(dtype=np.float64))
    counts = np.bincount(own, minlength=len(centroids))
    return Clusters(centroids, own, distance, counts, inertia, distance.size)


def find(heat: Tensor, inside: Tensor, count: int, threshold: float) -> Found:
    """`tops` as landmarks; one is missing where its heat is below the threshold, and has a dense match all the same."""
    at, height = tops(heat, inside, count)
    xy, score = at.cpu().numpy(), height.cpu().numpy()
    missing = score < threshold
    seen_xy, seen = np.where(missing[..., None], np.nan, xy), np.where(missing, np.nan, score)
    return Found(seen_xy.astype(np.float32), seen.astype(np.float32), xy, score)


def tops(heat: Tensor, inside: Tensor, count: int, *, refine: bool = True) -> tuple[Tensor, Tensor]:
    """Highest cell of each heat map in the ROI, moved to the top of the Gaussian around it.

    Args:
        heat: (B, K, G, G) in [0, 1]. inside: (B, G, G) bool; an image without any cell inside is searched as a whole.
        count: K, as asked for. refine: whether it is moved; else xy is the cell.

    Returns:
        xy (B, K, 2) in cells and the heat (B, K) of the cell.

    Raises:
        ULDError: there are not K heat maps.
    """
    if heat.shape[1] != count:
        raise ULDError(
            f"the model has {heat.shape[1]} heat maps for {count} landmarks: give the row as many landmarks, and a "
            f"start whose method gives each one a heat map of its own: mallis_d_detector or mallis_ch4_detector."
        )
    outside = ~(inside | ~inside.flatten(1).any(1)[:, None, None])[:, None]
    # the logarithm of a Gaussian is a paraboloid, whose top the quadratic finds exactly
    surface = heat.log().masked_fill(outside, -torch.inf)
    return match.best(heat.masked_fill(outside, -torch.inf), surface, refine, heat)


def mirror_votes(
    source: Source, labels: Labels, rows: Rows, flip: View, centroids: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Which landmark (K, K) the points of each one look like in the mirror image: how many of them.

    There a left eye looks like a right one, so each landmark has one that it turns into: the majority of its row
    (Mallis, thesis, chapter 6).

    Args:
        labels: of which those of the images as they are count. flip: the view that shows the mirror image.
    """
    count = len(centroids)
    before, after = [], Spool()
    for batch in progress.batches("mirror images", rows):
        xy = label.table(labels, batch, False, count)
        known = np.isfinite(xy).all(2)
        maps = source.describe(batch, flip)
        cells = torch.from_numpy(source.to_cells(batch, np.nan_to_num(xy), flip)).to(maps.device)
        x = F.normalize(sampling.sample(maps, cells), dim=2).cpu().numpy()
        before.append(np.nonzero(known)[1])
        after.append(x[known])
    turned, _ = kmeans.nearest(after, centroids)
    votes = np.zeros((count, count), dtype=np.int64)
    np.add.at(votes, (np.concatenate(before), turned), 1)
    return votes
