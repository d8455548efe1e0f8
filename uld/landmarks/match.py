"""Exemplar assignment: at most one point an image and cluster (D-ULD, section 3.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from uld.artifacts.found import Found
from uld.cluster import kmeans
from uld.geometry import peaks
from uld.landmarks.detect import Points

CHUNK = 2**23  # similarities held at a time


def exemplars(
    image: NDArray[np.integer], label: NDArray[np.integer], distance: NDArray[np.floating]
) -> NDArray[np.int64]:
    """Indices of the points to keep: of each (image, cluster) the one nearest to the centroid.

    Args:
        image, label, distance: (M,) of each point; of equal distances the first point stays.

    Returns:
        (P,) indices into the points, sorted by image and then by cluster.
    """
    if not len(image):
        return np.empty(0, dtype=np.int64)
    slot = image.astype(np.int64) * (int(label.max()) + 1) + label
    best = np.full(int(slot.max()) + 1, np.inf, dtype=distance.dtype)
    np.minimum.at(best, slot, distance)
    # written from last to first: of equals the first stays
    tied = np.flatnonzero(distance == best[slot])[::-1]
    nearest = np.full(len(best), -1, dtype=np.int64)
    nearest[slot[tied]] = tied
    return nearest[nearest >= 0]


def exemplars_of(
    points: Points, centroids: NDArray[np.float32], images: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each image and centroid the nearest of the points that are nearer to it than to other centroids.

    Returns:
        xy (images, K, 2) in cells and cosine (images, K) to the centroid, NaN where a centroid won no point.
    """
    xy = np.full((images, len(centroids), 2), np.nan, dtype=np.float32)
    score = np.full((images, len(centroids)), np.nan, dtype=np.float32)
    if len(points.image):
        label, distance = kmeans.nearest(points.descriptor, centroids)
        chosen = exemplars(points.image, label, distance)
        place = points.image[chosen], label[chosen]
        xy[place] = points.xy[chosen]
        score[place] = cosine(points.descriptor[chosen], centroids[label[chosen]])
    return xy, score


def cosine(x: NDArray[np.float32], centroid: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine (P,) of descriptors (P, D) of unit length to a centroid each."""
    return np.asarray((x * centroid).sum(1) / np.maximum(np.linalg.norm(centroid, axis=1), 1e-12))


@dataclass(frozen=True)
class Matches:
    """Landmarks among all cells of B images, in cells, on the device; scores are cosine similarities to the centroid.

    xy (B, K, 2) and score (B, K): exemplars, NaN where a cluster won no cell; dense_xy and dense_score: always there.
    """

    xy: torch.Tensor
    score: torch.Tensor
    dense_xy: torch.Tensor
    dense_score: torch.Tensor

    def found(self) -> Found:
        """The same for files."""
        return Found(*(value.cpu().numpy() for value in (self.xy, self.score, self.dense_xy, self.dense_score)))


def dense(
    descriptors: torch.Tensor,
    inside: torch.Tensor,
    centroids: NDArray[np.float32],
    *,
    refine: bool = True,
    prior: torch.Tensor | None = None,
    anywhere: bool = False,
) -> Matches:
    """Exemplar assignment over all cells of the ROI, in place of the paper's random test pixels.

    Each cell goes to its nearest centroid (L2); of each cluster's cells the one nearest to the centroid is the
    landmark. Descriptors have unit length, so within a cluster nearest means most similar in cosine. Dense matches are
    these exemplars, and the most similar cell of the ROI where a cluster won none.

    Args:
        descriptors: (B, D, G, G) of unit length.
        inside: (B, G, G) bool ROI; an image without any cell inside has no exemplars and is matched as a whole.
        centroids: (K, D), K at least 1.
        refine: move each landmark by at most half a cell to the top of the quadratic around it (`peaks.quadratic`).
        prior: (B, 1 or K, G, G) added to the similarities before the highest is taken; scores are without it.
        anywhere: dense matches are the most similar cells of the ROI, whichever cluster won them.
    """
    weight = torch.from_numpy(centroids).to(descriptors)
    step = max(1, CHUNK // (len(centroids) * inside[0].numel())) if len(inside) else 1
    added = torch.zeros_like(descriptors[:, :1]) if prior is None else prior
    chunks = zip(descriptors.split(step), inside.split(step), added.split(step), strict=True)
    parts = [_dense(part, roi, weight, refine, some) for part, roi, some in chunks]
    xy, score, dense_xy, dense_score = (torch.cat(column) for column in zip(*parts, strict=True))
    if not anywhere:
        won = score.isfinite()
        dense_xy, dense_score = torch.where(won[..., None], xy, dense_xy), torch.where(won, score, dense_score)
    return Matches(xy, score, dense_xy, dense_score)


def _dense(
    descriptors: torch.Tensor, inside: torch.Tensor, centroids: torch.Tensor, refine: bool, prior: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Exemplars and the most similar cells of a few images."""
    product = (centroids @ descriptors.flatten(2)).unflatten(2, inside.shape[1:])
    norm = centroids.norm(dim=1)[:, None, None]
    label = (product - norm**2 / 2).argmax(dim=1).masked_fill(~inside, -1)
    cosine = product / norm.clamp(min=1e-12)
    own = label[:, None] == torch.arange(len(centroids), device=label.device)[:, None, None]
    roi = inside | ~inside.flatten(1).any(dim=1)[:, None, None]
    surface = (cosine + prior).masked_fill(~roi[:, None], -torch.inf)
    exemplar = best(surface.masked_fill(~own, -torch.inf), surface, refine, cosine)
    return (*exemplar, *best(surface, surface, refine, cosine))


def best(
    allowed: torch.Tensor, surface: torch.Tensor, refine: bool, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest cell of each map.

    Args:
        allowed: (B, K, G, G), -inf at cells that may not be chosen.
        surface: (B, K, G, G), -inf where there is no value: what the quadratic around the cell is taken of.
        refine: move to the top of that quadratic, by at most half a cell.
        value: (B, K, G, G) the scores.

    Returns:
        xy (B, K, 2) in cells and the score (B, K) of the cell, NaN where none is allowed.
    """
    batch, k, grid, _ = surface.shape
    highest, flat = allowed.flatten(2).max(dim=2)
    cell = torch.stack([flat % grid, flat // grid], dim=2)
    xy = cell.to(surface.dtype)
    if refine:
        maps = torch.arange(batch * k, device=surface.device)
        xy = xy + peaks.quadratic(surface.flatten(0, 1), maps, cell.flatten(0, 1)).view(batch, k, 2)
    missing = highest == -torch.inf
    score = value.flatten(2).gather(2, flat[..., None])[..., 0]
    return xy.masked_fill(missing[..., None], torch.nan), score.masked_fill(missing, torch.nan)
