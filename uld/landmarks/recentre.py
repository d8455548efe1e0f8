"""Centroids of exemplars, and which landmarks stay put.

k-means centres a cluster on all that falls into it, background included, so its exemplar may jump between two parts
that look alike. The mean over exemplars, one an image, is drawn to the part that most of them show; and a landmark that
jumps betrays itself without labels: turn the image, and it is found elsewhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.artifacts.labels import Labels
from uld.base import runtime
from uld.geometry import coords
from uld.geometry.frames import Rows
from uld.landmarks import assign
from uld.methods.base import Source


@dataclass(frozen=True)
class Held:
    """What there is to see of n images in one view, held in memory.

    descriptors (n, D, G, G) float16; inside (n, G, G) ROI; heat (n, C, G, G), None of a model without a detector.
    """

    rows: Rows
    view: int
    descriptors: torch.Tensor
    inside: torch.Tensor
    heat: torch.Tensor | None

    def take(self, index: NDArray[np.int64]) -> "Held":
        """Some of the images."""
        at = torch.from_numpy(index).to(self.inside.device)
        heat = None if self.heat is None else self.heat[at]
        return Held(self.rows[index], self.view, self.descriptors[at], self.inside[at], heat)

    def matches(self, centroids: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Dense matches of K centroids: xy (n, K, 2) in cells and the descriptors (n, K, D) found there."""
        xy, found = [], []
        for part, inside in zip(self.descriptors.split(64), self.inside.split(64), strict=True):
            maps = part.float()
            at = torch.from_numpy(assign.dense(maps, inside, centroids, refine=True).best_xy).to(maps.device)
            xy.append(at.cpu().numpy())
            found.append(F.normalize(coords.sample(maps, at), dim=2).cpu().numpy())
        return np.concatenate(xy), np.concatenate(found)


def hold(source: Source, rows: Rows, view: int) -> Held:
    """Read a view into memory: (2 D + 4 C) G^2 bytes an image."""
    descriptors, inside, heat = [], [], []
    for batch in runtime.batches(rows):
        if source.detects:
            seen, hot = source.maps(batch, view)
            heat.append(hot)
        else:
            seen = source.describe(batch, view)
        descriptors.append(seen.half())
        inside.append(source.inside(batch, view))
    return Held(rows, view, torch.cat(descriptors), torch.cat(inside), torch.cat(heat) if heat else None)


def recentre(held: list[Held], centroids: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """Centroids (K, D), moved `times` times to the mean descriptor of their dense matches in all held images."""
    for _ in range(times):
        centroids = np.concatenate([one.matches(centroids)[1] for one in held]).mean(0)
    return centroids


def wander(source: Source, held: list[Held], views: list[int], centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far (K,) a landmark is found from itself in other views of the same image: mean, in cells of view 0.

    Args:
        held: its first entry is the plain view.
        views: turned or scaled views of the bank.
    """
    plain = held[0]
    here = source.to_image(plain.rows, plain.matches(centroids)[0], plain.view)
    # one cell of each image in its own pixels
    cell = source.to_image(
        plain.rows, np.tile(np.array([[0, 0], [1, 0]], np.float32), (len(plain.rows), 1, 1)), plain.view
    )
    size = np.linalg.norm(cell[:, 1] - cell[:, 0], axis=1)[:, None]
    off = [
        np.linalg.norm(source.to_image(plain.rows, hold(source, plain.rows, v).matches(centroids)[0], v) - here, axis=2)
        for v in views
    ]
    return np.asarray((np.mean(off, axis=0) / size).mean(0))


def means_at(held: list[Held], source: Source, labels: Labels, count: int) -> NDArray[np.float32]:
    """Mean descriptors (K, D) at the places that labels of an earlier round name: its clusters, as they look now.

    A landmark that no held image shows gets zeros.
    """
    total, seen = np.zeros((count, held[0].descriptors.shape[1])), np.zeros(count)
    for one in held:
        at = np.flatnonzero(labels.view == one.view)
        at = at[np.isin(labels.image[at], one.rows)]
        place = np.searchsorted(one.rows, labels.image[at])
        cells = source.to_cells(labels.image[at], labels.xy[at][:, None], one.view)
        maps = one.descriptors
        index, xy = (torch.from_numpy(value).to(maps.device) for value in (place, cells[:, 0]))
        found = F.normalize(coords.sample_each(maps, index, xy), dim=1)
        np.add.at(total, labels.label[at], found.cpu().numpy())
        seen += np.bincount(labels.label[at], minlength=count)
    return (total / np.maximum(seen, 1)[:, None]).astype(np.float32)
