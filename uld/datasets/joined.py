"""Several mark-ups of the same images, as one table."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.annotations import Annotations, AnnotationSet
from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets.markup import Marks

FARTHEST = 0.25  # of the image's width or height, that two marks of one named point may lie apart

Ends = tuple[tuple[int, ...], tuple[int, ...]]


def join(marks: dict[str, Marks], ends: dict[str, Ends]) -> Annotations:
    """All images that any mark-up has points of, sorted; NaN where a mark-up has none.

    Args:
        marks: checked marks of each mark-up.
        ends: points whose means span the normaliser, of the mark-ups that have some.
    """
    images = np.array(sorted(set().union(*(one.images for one in marks.values()))), dtype=object)
    sets = {name: AnnotationSet(_spread(one, images), *ends.get(name, ())) for name, one in marks.items()}
    return Annotations(images, sets)


def _spread(one: Marks, images: NDArray[np.object_]) -> NDArray[np.float32]:
    """Points (N, P, 2) of all `images` (N,)."""
    xy = np.full((len(images), *one.xy.shape[1:]), np.nan, np.float32)
    xy[pd.Index(images).get_indexer(pd.Index(one.images))] = one.xy
    return xy


def refuse_contradictions(marks: dict[str, Marks], index: pd.DataFrame) -> None:
    """Refuse two mark-ups that have a point of the same name in places far apart, as in another scale.

    Args:
        marks: checked marks of each mark-up.
        index: `image`, `width`, `height` of the data set's files.

    Raises:
        DataError: naming both files, image and point.
    """
    sizes = index.set_index("image")[["width", "height"]]
    for one, other in combinations(marks.values(), 2):
        names = [name for name in one.names if name in other.names]
        images, first, second = np.intersect1d(one.images, other.images, return_indices=True)
        a, b = _of(one, names)[first], _of(other, names)[second]
        far = np.abs(a - b) > FARTHEST * sizes.loc[images].to_numpy(np.float64)[:, None]
        if far.any():
            row, point, _ = np.argwhere(far)[0]
            raise DataError(
                f"{one.path}: point '{short(names[point])}' of image '{short(images[row])}' lies at "
                f"{_place(a[row, point])}, but in {Path(other.path).name} at {_place(b[row, point])}: correct one, or "
                "give it another name there."
            )


def _of(one: Marks, names: list[str]) -> NDArray[np.float32]:
    """Points (M, len(names), 2) by their names."""
    return one.xy[:, [one.names.index(name) for name in names]]


def _place(xy: NDArray[np.float32]) -> str:
    return f"({xy[0]:g}, {xy[1]:g})"
