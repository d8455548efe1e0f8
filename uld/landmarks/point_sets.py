"""Points of images that are not yet told apart, or that are: as many as an image has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.base import progress
from uld.base.errors import ULDError
from uld.geometry.frames import Rows
from uld.landmarks import distil
from uld.landmarks.detect import PeakParams, maxima
from uld.landmarks.distil import DistilParams
from uld.sources.source import Source
from uld.sources.views import View

Part = tuple[Rows, NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class PointSets:
    """Points of n images in a view.

    rows (n,), sorted; xy (n, P, 2) float32 in cells of the view, NaN where an image lacks one; score (n, P), heat or
    what a detector says, NaN there too; detected (n, P) bool: seen, and not only guessed.
    """

    rows: Rows
    view: View
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    detected: NDArray[np.bool_]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n,): how many each image has."""
        return np.asarray(np.isfinite(self.score).sum(1))


def padded(rows: Rows, view: View, parts: Iterable[Part]) -> PointSets:
    """The points of batches as one set an image, in the order that they have.

    Args:
        rows: of all batches. parts: of each in turn its images (b,), and of each point, image by image, the index of
            its image in the batch (P,), xy (P, 2) in cells and score (P,).
    """
    found, done = [], 0
    for batch, image, xy, score in parts:
        found.append((image + done, xy, score))
        done += len(batch)
    image, xy, score = (np.concatenate(column) for column in zip(*found, strict=True))
    place = np.arange(len(image)) - np.searchsorted(image, image)
    shape = len(rows), int(place.max(initial=-1)) + 1
    table, heights = np.full((*shape, 2), np.nan, np.float32), np.full(shape, np.nan, np.float32)
    table[image, place], heights[image, place] = xy, score
    return PointSets(rows, view, table, heights, np.isfinite(heights))


def detections(source: Source, rows: Rows, view: View, peaks: PeakParams, warps: DistilParams | None) -> PointSets:
    """Maxima of the one heat map of a model, the highest first.

    Args:
        warps: over which the heat map is averaged; None: it is not.

    Raises:
        ULDError: the model has several heat maps, or there is no point in any image.
    """
    if source.model.channels > 1:
        raise ULDError(
            f"the start has {source.model.channels} heat maps, not one that fires at any point: start from a round of "
            "mallis_ch4."
        )

    def parts() -> Iterator[Part]:
        for batch in progress.batches("detecting", rows):
            heat = distil.heat(source, batch, view, warps)
            image, xy, score = maxima(heat, source.inside(batch, view), peaks)
            yield batch, image, xy.cpu().numpy(), score

    found = padded(rows, view, parts())
    if not found.counts.any():
        raise ULDError(
            "no point is detected in any training image: lower methods.*.cluster.detect.threshold or raise min_points."
        )
    return found


def of_found(rows: Rows, view: View, found: Found) -> PointSets:
    """Landmarks that a method has found: point k of an image is landmark k."""
    return PointSets(rows, view, found.xy, found.score, np.isfinite(found.score))


def to_labels(source: Source, sets: list[PointSets]) -> Labels:
    """Sets of the same images in different flips as pseudo-labels: the place of a point in its set is its label."""
    parts = []
    for one in sets:
        image, place = np.nonzero(np.isfinite(one.score))
        rows = one.rows[image]
        xy = source.to_image(rows, one.xy[image, place][:, None], one.view)[:, 0]
        flipped = np.full(len(rows), one.view.flipped)
        parts.append((rows, flipped, place, xy, one.score[image, place], one.detected[image, place]))
    image, flipped, place, xy, score, detected = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Labels(image, flipped, place, xy, score, detected, sets[0].xy.shape[1])
