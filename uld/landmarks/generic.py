"""Points of a generic detector in the images that a model reads (Mallis, thesis, 2023, chapters 4 and 5).

A generic detector knows nothing of the object. Its points are what self-training begins with.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld import keypoints
from uld.base import progress
from uld.base.errors import ParamsError, ULDError
from uld.base.params import CLOSED
from uld.cluster.spool import Spool
from uld.geometry import coords, sampling
from uld.geometry.frames import Rows
from uld.keypoints import classical, file, learned, outliers, superpoint
from uld.keypoints.base import Keypoints, apart
from uld.landmarks.detect import Points
from uld.sources.source import Source
from uld.sources.views import View

Floats = NDArray[np.float32]
# Every detector that params may name: the list of a stage's code holds what is imported, and which one a line of
# `methods` names is not known when the lists are made.
DETECTORS = (superpoint, classical, learned, file)


@dataclass(frozen=True, config=CLOSED)
class GenericParams:
    """Which points a generic detector has in an image."""

    keypoints: dict[str, Any]  # {by: superpoint | classical | learned | file, ...} and that detector's params
    # zooms into the image about its centre, in each of which points are detected; in chapter 5: 1, 1.3, 1.6; [1]: off
    scales: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(min_length=1)]
    # cells in x and in y; of points of all scales that are no farther apart the best one stays; 0: all stay
    merge: Annotated[float, Field(ge=0)]
    # share of the points in the boxes that is left out, in the whole data set (`uld/keypoints/outliers.py`); 0: none
    outliers: Annotated[float, Field(ge=0, lt=1)]

    @field_validator("keypoints")
    @classmethod
    def _known(cls, block: dict[str, Any]) -> dict[str, Any]:
        """Refuse a detector that is not there, and params that are not its own."""
        try:
            keypoints.chosen(block, "keypoints")
        except ParamsError as error:
            raise ValueError(str(error).replace("params.yaml: ", "")) from error
        return block

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Points of a file do not depend on what is seen of an image."""
        if self.keypoints["by"] == "file" and self.scales != (1,):
            raise ValueError("scales must be [1] where keypoints.by is file: its points are the same in any zoom")
        return self


def generic(
    source: Source, rows: Rows, view: View, p: GenericParams, rng: np.random.Generator, *, beside: bool = False
) -> Iterator[tuple[Rows, Points]]:
    """Points of a generic detector, and what it says that they look like.

    Points are where the detector finds them in any scale; they are described in the image as it is.

    Args:
        rows: (n,) images. view: what the detector sees of them. rng: as in `outliers.typical`.
        beside: the points outside the object boxes are wanted, in place of those inside; none is an outlier.

    Yields:
        Batch by batch the images (b,) and their points in cells of the view, scores and descriptors the detector's own,
        an image's points by falling score. An image may have none.

    Raises:
        ULDError: the model reads no images, or no image has a point.
    """
    if not source.model.reads_pixels:
        raise ULDError(
            "a generic detector of points looks at images, and this model reads features: begin at a start that reads "
            "roi/crops, as hourglass and encoder do."
        )
    kind, block = keypoints.chosen(p.keypoints, "keypoints")
    detector = kind(block)
    parts, looks = [], Spool()
    for batch in progress.batches("detecting", rows):
        image, xy, score, described = _detected(source, batch, view, p, detector, beside)
        parts.append((batch, image, xy, score))
        if len(image):
            looks.append(described)
    if not len(looks):
        where = "beside the object boxes of the images" if beside else "in any object box"
        raise ULDError(f"{p.keypoints['by']} finds no point {where}: {detector.remedy}.")
    leave = p.outliers and not beside
    kept = outliers.typical(looks, p.outliers, rng) if leave else np.ones(len(looks), dtype=np.bool_)
    return _batches(parts, looks, kept)


def _batches(
    parts: list[tuple[Rows, NDArray[np.int64], Floats, Floats]], looks: Spool, kept: NDArray[np.bool_]
) -> Iterator[tuple[Rows, Points]]:
    """The kept ones of all points; looks (N, D) and kept (N,) go through the batches in order."""
    done = 0
    for rows, image, xy, score in parts:
        mine = slice(done, done + len(image))
        some = kept[mine]
        yield rows, Points(image[some], xy[some], score[some], looks[mine][some])
        done = mine.stop


def _detected(
    source: Source, rows: Rows, view: View, p: GenericParams, detector: Keypoints, beside: bool
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Points of a batch inside the object boxes, or beside them: image (P,), xy in cells, score, descriptors (P, D)."""
    images = source.views.inputs(rows, view, [])
    assert isinstance(images, Tensor), "a model that reads pixels"
    to_cells = coords.resize(images.shape[-1], source.grid)
    wanted = source.inside(rows, view).cpu().numpy() != beside
    found = []
    tables = in_scales(detector.of(source.views, rows, view), images, p.scales)
    for table, mask in zip(tables, wanted, strict=True):
        xy = coords.apply(to_cells, table[:, :2])
        kept = apart(xy, p.merge, len(xy))
        found.append(table[kept][_marked(xy[kept], mask)])
    image = np.repeat(np.arange(len(rows)), [len(one) for one in found])
    table = np.concatenate(found)
    return image, coords.apply(to_cells, table[:, :2]), table[:, 2], _described(detector, images, found)


def in_scales(detector: Keypoints, images: Tensor, scales: tuple[float, ...]) -> list[Floats]:
    """Points of images under zooms about their centre, in pixels of the images as they are.

    Args:
        images: (B, 3, S, S) in [0, 1]. scales: each at least 1.

    Returns:
        B arrays (P, 3) of x, y and score, by falling score; of equal ones those of an earlier scale are first.
    """
    tables: list[list[Floats]] = [[] for _ in images]
    for scale in scales:
        zoom = coords.view(images.shape[-1], scale=scale)
        seen = images if scale == 1 else sampling.warp(images, zoom)
        for table, points in zip(tables, detector(seen), strict=True):
            xy = coords.apply(coords.invert(zoom), points[:, :2])
            table.append(np.column_stack([xy, points[:, 2]]).astype(np.float32))
    every = [np.concatenate(table) for table in tables]
    return [table[np.argsort(-table[:, 2], kind="stable")] for table in every]


def _marked(xy: Floats, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which points (P, 2) in cells lie in a cell of the map (G, G) that is True."""
    x, y = np.rint(xy).astype(np.int64).clip(0, len(mask) - 1).T
    return mask[y, x]


def _described(detector: Keypoints, images: Tensor, points: list[Floats]) -> Floats:
    """Descriptors (P, D) of the points of all images; (0, 0) where there is none."""
    some = [i for i, one in enumerate(points) if len(one)]
    if not some:
        return np.empty((0, 0), dtype=np.float32)
    return np.concatenate(detector.describe(images[some], [points[i] for i in some]))
