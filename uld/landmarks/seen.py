"""What there is to see of some images in one view, in memory: descriptors, heat maps and the object box."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.artifacts.found import Found
from uld.base import progress
from uld.geometry import sampling
from uld.geometry.frames import Rows
from uld.landmarks import match
from uld.landmarks.detect import DetectParams, PeakParams, Points, detect
from uld.sources.source import Source
from uld.sources.views import View

PIECE = 64  # images that are searched at a time


@dataclass(frozen=True, eq=False)
class Seen:
    """n images in one view, on the device.

    rows (n,); descriptors (n, D, G, G); inside (n, G, G) bool, the object box; heat (n, C, G, G) in [0, 1], None of a
    model without a detector; code (n, L) pose codes, None of a model without.
    """

    rows: Rows
    view: View
    descriptors: torch.Tensor
    inside: torch.Tensor
    heat: torch.Tensor | None = None
    code: torch.Tensor | None = None

    def take(self, index: NDArray[np.int64]) -> "Seen":
        """Some of the images."""
        at = torch.from_numpy(index).to(self.inside.device)
        heat, code = (None if part is None else part[at] for part in (self.heat, self.code))
        return Seen(self.rows[index], self.view, self.descriptors[at], self.inside[at], heat, code)

    def pieces(self) -> Iterator["Seen"]:
        """`PIECE` images at a time, in order; one empty piece of none."""
        for start in range(0, max(1, len(self.rows)), PIECE):
            yield self.take(np.arange(start, min(start + PIECE, len(self.rows))))

    def points(self, params: PeakParams) -> Points:
        """Detections; of several heat maps the highest counts."""
        assert self.heat is not None, "the model has no detector"
        return detect(self.descriptors, self.heat.amax(1), self.inside, params)

    def prior(self, params: DetectParams) -> torch.Tensor | None:
        """What the heat adds to the similarities of dense matches, None of a model without a detector."""
        return None if self.heat is None else params.prior(self.heat)

    def at(self, xy: torch.Tensor) -> torch.Tensor:
        """Descriptors (n, K, D) of unit length at points (n, K, 2) in cells."""
        return F.normalize(sampling.sample(self.descriptors.float(), xy), dim=2)


def look(source: Source, rows: Rows, view: View, *, heat: bool = True) -> Seen:
    """One batch of images; without `heat` its heat maps and codes are not made, which many models save work by."""
    inside = source.inside(rows, view)
    if not (source.detects and heat):
        return Seen(rows, view, source.describe(rows, view), inside)
    maps = source.maps(rows, view)
    return Seen(rows, view, maps.looks, inside, maps.heat, maps.code)


def keep(source: Source, rows: Rows, view: View, *, heat: bool = True) -> Seen:
    """All images, descriptors in half precision: (2 D + 4 C) G^2 bytes an image; `heat` as above."""
    parts = [_halved(look(source, batch, view, heat=heat)) for batch in progress.batches("reading images", rows)]
    descriptors, inside = (torch.cat([getattr(one, name) for one in parts]) for name in ("descriptors", "inside"))
    more = ([getattr(one, name) for one in parts] for name in ("heat", "code"))
    return Seen(rows, view, descriptors, inside, *(None if one[0] is None else torch.cat(one) for one in more))


def _halved(seen: Seen) -> Seen:
    return replace(seen, descriptors=seen.descriptors.half())


def matches(seen: Seen, centroids: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Dense matches of K centroids: xy (n, K, 2) in cells and the descriptors (n, K, D) found there."""
    xy, found = [], []
    for part in seen.pieces():
        at = match.dense(part.descriptors.float(), part.inside, centroids).dense_xy
        xy.append(at.cpu().numpy())
        found.append(part.at(at).cpu().numpy())
    return np.concatenate(xy), np.concatenate(found)


def search(seen: Seen, centroids: NDArray[np.float32], params: DetectParams, cost: torch.Tensor | None = None) -> Found:
    """Dense matches of K centroids and, of the detections, the exemplars.

    Args:
        cost: (K, G, G), taken off the similarities of dense matches where it is known about where each landmark lies. A
            landmark is then looked for in all cells, not only in those that look like no other landmark.
    """
    prior = seen.prior(params)
    if prior is not None and cost is not None:
        prior = prior - cost
    found = match.dense(seen.descriptors, seen.inside, centroids, prior=prior, anywhere=cost is not None).found()
    if seen.heat is None:
        return found
    points = seen.points(params)
    xy, score = match.exemplars_of(points, centroids, len(seen.rows))
    count = np.bincount(points.image, minlength=len(seen.rows))
    return Found(xy, score, found.dense_xy, found.dense_score, count)
