"""A template of K points, and which point of an image is which of them (Mallis, thesis, 2023, section 4.2.4).

The template is what was detected on one image; K is the number of its points. It is moved onto the points of every
other image, and the nearest ones there, one to one, are its landmarks.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.cluster import drift
from uld.cluster.drift import DriftParams
from uld.cluster.kmeans import Clusters
from uld.cluster.quality import quality
from uld.geometry import sampling
from uld.landmarks.point_sets import PointSets
from uld.landmarks.summary import summarise
from uld.methods.base import Discovery, Task

Floats = NDArray[np.floating]


@closed(frozen=True, config=CLOSED)
class TemplateParams:
    """Which template, and which points of an image are its landmarks. The thesis gives none of the numbers."""

    # row of boxes.csv, whose points are the template; null: of the training images that have enough points the one with
    # the fewest, among equals the one whose points are the surest
    image: Annotated[int, Field(ge=0)] | None
    drift: DriftParams
    near: Annotated[float, Field(gt=0)]  # cells between a point of the moved template and the image's own, at most
    share: Annotated[float, Field(ge=0, le=1)]  # of the template's points that an image must have, or it is left out
    complete: bool  # whether a landmark without a point is where the moved template has it; else it is not labelled


def choose(points: PointSets, count: int, image: int | None) -> tuple[int, NDArray[np.float32]]:
    """The K = `count` surest points of one training image.

    Args:
        points: of the training images, the surest first. image: as in `TemplateParams`.

    Returns:
        Its row of boxes.csv, and the template (K, 2) in cells.

    Raises:
        ULDError: it is no training image, or no image has so many points.
    """
    enough = points.counts >= count
    if image is not None and image not in points.rows:
        raise ULDError(
            f"image {image} is no training image: give methods.*.cluster.template.image another row of boxes.csv."
        )
    if image is not None:
        enough &= points.rows == image
    if not enough.any():
        most = points.counts.max() if image is None else points.counts[points.rows == image][0]
        raise ULDError(
            f"a template of {count} landmarks wants an image with so many points, and {_who(image)} has {most}: lower "
            "landmarks or methods.*.cluster.detect.threshold, or raise max_points."
        )
    sure = np.nan_to_num(points.score)[:, :count].mean(1)
    best = int(np.lexsort((-sure, points.counts, ~enough))[0])
    return int(points.rows[best]), points.xy[best, :count]


def _who(image: int | None) -> str:
    return "the training image that has most" if image is None else f"image {image}"


def discovery(task: Task, image: int, xy: NDArray[np.float32]) -> Discovery:
    """A template (K, 2) in cells as landmarks: each has the descriptor of its point, which its cluster has alone."""
    source, view, row = task.source, task.source.views.plain, np.array([image])
    maps = source.describe(row, view)
    x = F.normalize(sampling.sample(maps, torch.from_numpy(xy[None]).to(maps.device)), dim=2)[0].cpu().numpy()
    own = np.arange(len(xy))
    alone = Clusters(x, own, np.zeros(len(xy), x.dtype), np.ones(len(xy), dtype=np.int64), 0.0, len(xy))
    landmarks = summarise(np.repeat(row, len(xy)), source.to_image(row, xy[None], view)[0], x, alone, task.rng)
    return Discovery(with_template(landmarks, xy), quality(x, alone, task.rng))


def with_template(landmarks: Landmarks, xy: NDArray[np.float32] | None) -> Landmarks:
    """Landmarks with the template (K, 2) that they come from, and what each turns into in the mirror."""
    return replace(landmarks, template=xy, mirror=None if xy is None else mirror_map(xy))


def mirror_map(xy: Floats) -> NDArray[np.int64]:
    """Which point (K,) of a template (K, 2) each one lies nearest to in its mirror image, one to one (Hungarian).

    The two are laid upon each other by their means.
    """
    off = xy - xy.mean(0)
    return np.asarray(linear_sum_assignment(cdist(off * [-1, 1], off))[1], dtype=np.int64)


def place(sets: list[PointSets], template: Floats, p: TemplateParams) -> tuple[list[PointSets], dict[str, float]]:
    """Points of images in some flips as landmarks; the figures (docs/artifacts.md) are of all of them.

    Raises:
        ULDError: no image fits the template.
    """
    placed = [_place(points, template, p) for points in sets]
    if not any(points.counts.any() for points, _ in placed):
        raise ULDError(
            "no training image has enough points where the template has them: raise methods.*.cluster.template.near, "
            "lower its share, or let another image be the template."
        )
    each = [figures for _, figures in placed]
    return [points for points, _ in placed], {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def _place(points: PointSets, template: Floats, p: TemplateParams) -> tuple[PointSets, dict[str, float]]:
    """Sets of K, of which point k is landmark k; all are absent where an image is left out."""
    moved = drift.align(template, points.xy, p.drift)
    index = match(moved.xy, points.xy, p.near)
    matched = index >= 0
    kept = matched.sum(1) >= np.maximum(p.share * len(template), 1)
    there = kept[:, None] & (matched | p.complete)
    at = np.arange(len(index))[:, None], np.where(matched, index, 0)
    seen = matched & there
    xy = _where(seen[..., None], points.xy, at, np.where(there[..., None], moved.xy, np.nan))
    score = _where(seen, points.score, at, np.where(there, 0, np.nan))
    figures = {
        "aligned": float(moved.known.mean()),
        "settled": float(moved.settled.mean()),
        "matched": float(matched.mean()),
        "left_out": float((~kept).mean()),
    }
    return replace(points, xy=xy, score=score, detected=seen), figures


def _where(
    seen: NDArray[np.bool_], value: NDArray[np.float32], at: tuple[NDArray[np.int64], NDArray[np.int64]], other: Floats
) -> NDArray[np.float32]:
    """`value` (n, P, ...) at the points `at` of the images that are seen, `other` (n, K, ...) elsewhere."""
    return np.where(seen, value[at] if value.shape[1] else np.nan, other).astype(np.float32)


def match(moved: Floats, points: Floats, near: float) -> NDArray[np.int64]:
    """Which point (B, K) of its image each point of a moved template is, -1 where none is within `near` of it.

    One to one, with the least sum of Euclidean distances (Hungarian).

    Args:
        moved: (B, K, 2), NaN in images where the template could not be aligned. points: (B, P, 2), NaN where absent.
    """
    index = np.full(moved.shape[:2], -1, dtype=np.int64)
    known, there = drift.present(moved).all(1), drift.present(points)
    for image in np.flatnonzero(known):
        mine = np.flatnonzero(there[image])
        gap = cdist(moved[image], points[image, mine])
        row, column = linear_sum_assignment(gap)
        close = gap[row, column] <= near
        index[image, row[close]] = mine[column[close]]
    return index
