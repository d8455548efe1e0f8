"""How each landmark looks and where it lies in each pose.

Twins look alike, and a part that turns out of sight leaves its landmark to whatever looks most like it: of an image
alone nothing tells which is meant. Images of one pose show a part in one place, and of the next pose not far from it
and not much changed. So landmarks are carried from pose to pose, and a dense match must be worth its distance from the
place.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from uld.cluster.align import outward
from uld.landmarks import match
from uld.landmarks.detect import DetectParams
from uld.landmarks.seen import Seen

Floats = NDArray[np.float32]

TURNS = 20  # of matches and their means, at most
SETTLED = 0.03  # cells that no mean moves any more


def cost(places: Floats, grid: int, weight: float) -> torch.Tensor:
    """`weight` x squared distance (K, grid, grid) of each cell to the places (K, 2) in cells, in sides of the map."""
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    gap = torch.stack([x, y], -1) - torch.from_numpy(places)[:, None, None]
    return weight * gap.square().sum(-1) / grid**2


def carry(
    kept: list[list[Seen]], centroids: Floats, poses: Floats, detect: DetectParams, weight: float, prior: float
) -> tuple[Floats, Floats]:
    """How landmarks look and where they lie in each pose, from one outward along the tree of poses (`align.outward`).

    The first is the pose whose images tell the landmarks apart best, and agree: most of their matches, wherever they
    are, lie nearest to the median of their own landmark. It starts from these medians, every other pose from the places
    of its neighbour. There a landmark looks as the pose has found for itself, or as it came to look in the neighbour
    if near the place the images match that better: what a pose finds for itself may be a twin. Dense matches, kept near
    the places, and the means of where they lie take turns; what they look like in the end is the landmark's look in the
    pose.

    Args:
        kept: images of each of Q poses in each of F flips.
        centroids: (Q, K, D), as each pose has found them.
        poses: (Q, C) pose centroids.
        weight: of the squared distance against the cosine, see `cost`.
        prior: matches that a centroid counts for where it starts.

    Returns:
        Centroids (Q, K, D) and places (F, Q, K, 2) in cells. A pose without images has those of its neighbour.
    """
    free = [[_matches(one, own, detect)[0] for one in flips] for flips, own in zip(kept, centroids, strict=True)]
    first = _first(free)
    looks = centroids.copy()
    xy = np.full((len(kept[0]), *centroids.shape[:2], 2), np.nan, dtype=np.float32)
    for parent, pose in [(first, first), *outward(poses, first)]:
        shown = {flip: one for flip, one in enumerate(kept[pose]) if len(one.rows)}
        xy[:, pose] = xy[:, parent]
        if not shown:
            looks[pose] = looks[parent]
            continue
        for flip, one in shown.items():
            if np.isnan(xy[flip, pose]).any():  # the first pose that this flip has images of
                xy[flip, pose] = np.median(_matches(one, looks[parent], detect)[0], axis=0)
        values = [_value(shown, look, xy[:, pose], detect, weight) for look in (centroids[pose], looks[parent])]
        start = np.where((values[0] >= values[1])[:, None], centroids[pose], looks[parent])
        for _ in range(TURNS):
            before, total, count = xy[:, pose].copy(), prior * start, prior
            for flip, one in shown.items():
                at, found = _matches(one, start, detect, cost(xy[flip, pose], one.inside.shape[-1], weight))
                xy[flip, pose] = at.mean(0)
                total, count = total + found.sum(0), count + len(found)
            if np.nanmax(np.abs(xy[:, pose] - before)) < SETTLED:
                break
        looks[pose] = total / count
    return looks, np.where(np.isnan(xy), np.nanmean(xy, axis=1, keepdims=True), xy)


def _value(shown: dict[int, Seen], looks: Floats, places: Floats, detect: DetectParams, weight: float) -> Floats:
    """Mean cosine (K,) of looks (K, D) with their matches near places (F, K, 2), less the distance's cost."""
    unit = looks / np.maximum(np.linalg.norm(looks, axis=1, keepdims=True), 1e-12)  # 0: no image has shown it
    values = []
    for flip, one in shown.items():
        grid = one.inside.shape[-1]
        at, found = _matches(one, looks, detect, cost(places[flip], grid, weight))
        values.append((found * unit).sum(2) - weight * ((at - places[flip]) ** 2).sum(2) / grid**2)
    return np.concatenate(values).mean(0)


def _first(matches: list[list[Floats]]) -> int:
    """The pose where the largest share of matches [(n, K, 2) of each flip] lies nearest to its own landmark's median.

    A pose in which two landmarks are one does not have it, however well its images agree; every other would inherit
    that. Among equals, the one where matches lie nearest to their medians. Of less than half the mean number of images
    that says little.
    """
    counts = np.array([sum(len(one) for one in flips) for flips in matches])
    share, scatter = np.zeros(len(matches)), np.full(len(matches), np.inf)
    for pose in np.flatnonzero(2 * counts >= max(counts.mean(), 1)):
        gaps = [np.linalg.norm(one[:, :, None] - np.median(one, axis=0), axis=3) for one in matches[pose] if len(one)]
        gap = np.concatenate(gaps)  # (n, K, K): a landmark's match to a landmark's median
        own = np.diagonal(gap, axis1=1, axis2=2)
        others = np.where(np.eye(gap.shape[1], dtype=bool), np.inf, gap).min(2)
        share[pose], scatter[pose] = (own < others).mean(), own.mean()
    return int(np.lexsort((scatter, -share))[0])


def _matches(
    seen: Seen, centroids: Floats, detect: DetectParams, far: torch.Tensor | None = None
) -> tuple[Floats, Floats]:
    """Dense matches in all cells of images: xy (n, K, 2) in cells, and the descriptors (n, K, D) there."""
    xy, looks = [], []
    for part in seen.pieces():
        prior = part.prior(detect)
        if far is not None:
            prior = -far.to(part.inside.device) if prior is None else prior - far.to(prior)
        maps = part.descriptors.float()
        at = match.dense(maps, part.inside, centroids, prior=prior, anywhere=True).dense_xy
        xy.append(at.cpu().numpy())
        looks.append(part.at(at).cpu().numpy())
    return np.concatenate(xy), np.concatenate(looks)
