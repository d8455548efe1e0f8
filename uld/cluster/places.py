"""Where each landmark lies in each pose.

Twins look alike, and a part that turns out of sight leaves its landmark to whatever looks most like it: of an image
alone nothing tells which is meant. Images of one pose show a part in one place, and of the next pose not far from it.
So places are found from pose to pose, and a dense match must be worth its distance from the place.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from uld.cluster import assign
from uld.cluster.align import outward
from uld.cluster.detect import DetectParams
from uld.cluster.recentre import Held

Floats = NDArray[np.float32]

TURNS = 20  # of matches and their means, at most
SETTLED = 0.03  # cells that no mean moves any more


def cost(places: Floats, grid: int, weight: float) -> torch.Tensor:
    """`weight` x squared distance (K, grid, grid) of each cell to the places (K, 2) in cells, in sides of the map."""
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    gap = torch.stack([x, y], -1) - torch.from_numpy(places)[:, None, None]
    return weight * gap.square().sum(-1) / grid**2


def find(held: list[Held], centroids: Floats, poses: Floats, detect: DetectParams, weight: float) -> Floats:
    """Mean places of dense matches, from one pose outward along the tree of pose centroids (`align.outward`).

    The first is the pose whose images agree best: their matches, wherever they are, lie nearest to their medians. It
    starts from these, every other pose from the places of its neighbour, which it keeps if it has no image; then
    matches and their means take turns.

    Args:
        held: images of each of Q poses in one view.
        centroids: (Q, K, D).
        poses: (Q, C) pose centroids.
        weight: of the squared distance against the cosine, see `cost`.

    Returns:
        (Q, K, 2) in cells.
    """
    free = [_matches(one, own, detect, None) for one, own in zip(held, centroids, strict=True)]
    first = _first(free)
    out = np.zeros((*centroids.shape[:2], 2), dtype=np.float32)
    out[first] = np.median(free[first], axis=0)
    for parent, pose in [(first, first), *outward(poses, first)]:
        out[pose] = out[parent]
        for _ in range(TURNS if len(free[pose]) else 0):
            far = cost(out[pose], held[pose].inside.shape[-1], weight)
            before, out[pose] = out[pose].copy(), _matches(held[pose], centroids[pose], detect, far).mean(0)
            if np.abs(out[pose] - before).max() < SETTLED:
                break
    return out


def _first(matches: list[Floats]) -> int:
    """The pose whose matches (n, K, 2) scatter least. Of less than half the mean number of images that says little."""
    counts = np.array([len(one) for one in matches])
    scatter = np.full(len(matches), np.inf)
    for pose in np.flatnonzero(2 * counts >= max(counts.mean(), 1)):
        scatter[pose] = np.linalg.norm(matches[pose] - np.median(matches[pose], axis=0), axis=2).mean()
    return int(np.argmin(scatter))


def _matches(held: Held, centroids: Floats, detect: DetectParams, far: torch.Tensor | None) -> Floats:
    """Dense matches (n, K, 2) in all cells of the held images."""
    assert held.heat is not None, "poses are codes of heat maps"
    found = []
    for part in zip(held.descriptors.split(64), held.inside.split(64), held.heat.split(64), strict=True):
        descriptors, inside, heat = part
        prior = detect.prior(heat) if far is None else detect.prior(heat) - far.to(heat)
        found.append(assign.dense(descriptors.float(), inside, centroids, True, prior).dense_xy)
    return np.concatenate(found)
