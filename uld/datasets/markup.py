"""Annotated points as they are read, from a CSV here and from COCO in `coco.py`, and the checks that both must pass."""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets import tables
from uld.datasets.subset import UNUSED

log = logging.getLogger(__name__)

LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH = tuple(range(36, 42)), tuple(range(42, 48)), 30, [48, 54]  # of 68 points

SAYS = "image,x0,y0,x1,y1,... without a gap, or image,x_NAME,y_NAME,..."


class Marks(NamedTuple):
    """Points of M images as one file has them.

    path: of the file. images (M,) ids. xy (M, P, 2) float32, image pixels, NaN = absent. names: P of them where the
    file names its points, else none.
    """

    path: Path
    images: NDArray[Any]
    xy: NDArray[np.float32]
    names: tuple[str, ...] = ()

    def point(self, number: int) -> str:
        """A point as messages call it."""
        return f"{number} ('{short(self.names[number])}')" if self.names else str(number)


def from_csv(path: Path) -> Marks:
    """One line an image: `image,x0,y0,x1,y1,...` or `image,x_nose,y_nose,...`; an empty pair is an absent point.

    Other columns are passed over.

    Raises:
        DataError: as `tables.read`; or a cell that is no number.
    """
    table = tables.read(path, ["image"], SAYS, dtype={"image": str})
    names, columns = _points(table)
    table.needs(columns, SAYS)
    xy = single(table.numbers(columns)).reshape(len(table.lines), -1, 2)
    return Marks(path, table.frame["image"].fillna("").to_numpy(object), xy, names)


def _points(table: tables.Table) -> tuple[tuple[str, ...], list[str]]:
    """The names of the points, if they have names, and their columns x, y, x, y, ...; some may not be there."""
    numbers = sum(re.fullmatch(r"x[0-9]+", name) is not None for name in table.header)
    named = [found[1] for name in table.header if (found := re.fullmatch(r"[xy]_(.+)", name))]
    if named and not numbers:
        names = tuple(dict.fromkeys(named))
        return names, [f"{axis}_{name}" for name in names for axis in "xy"]
    if whole := [name for name, cells in Counter(named).items() if cells > 1]:
        log.warning("%s: its points are x0,y0,...; x_%s and its kin are passed over.", table.path, short(whole[0]))
    return (), [f"{axis}{number}" for number in range(max(1, numbers)) for axis in "xy"]


def single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32; what is too large for it becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def check(marks: Marks, index: pd.DataFrame) -> Marks:
    """Marks of the usable images, sorted by id.

    Args:
        marks: as read.
        index: `image`, `width`, `height`, `status` of the data set's files.

    Returns:
        The marks of images with status `ok` that have any point at all.

    Raises:
        DataError: an unknown or repeated image, half a point, an infinite one, or one further outside the image than
            half its side (a little outside is common: a jaw that the photograph cuts off).
    """
    path, images, xy = marks[:3]
    line = pd.Index(index["image"]).get_indexer(pd.Index(images))
    _refuse(
        path, images, line < 0, "is no file of the data set: correct the path (relative to the folder) or remove it"
    )
    _refuse(path, images, pd.Series(images).duplicated().to_numpy(), "is annotated twice: keep one line")
    absent = np.isnan(xy)
    half = (absent[..., 0] != absent[..., 1]) | np.isinf(xy).any(axis=-1)
    _refuse_point(marks, half, "is half absent or infinite: give x and y, or leave both empty")
    status = index["status"].to_numpy(object)[line]
    usable = status == "ok"
    side = index[["width", "height"]].to_numpy(np.float32)[line][:, None]
    far = ((xy < -0.5 - side / 2) | (xy > 1.5 * side - 0.5)).any(axis=-1) & usable[:, None]
    _refuse_point(marks, far, "lies far outside the image: are these pixels of the upright, unscaled photograph?")
    if bad := int((~usable & (status != UNUSED)).sum()):
        log.warning("%s: %d annotated images are unreadable or duplicates and not used.", path, bad)
    keep = np.flatnonzero(usable & ~absent.all(axis=(1, 2)))
    keep = keep[np.argsort(images[keep])]
    return marks._replace(images=images[keep], xy=xy[keep])


def _refuse(path: Path, images: NDArray[Any], wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        more = f" (and {int(wrong.sum()) - 1} more)" if wrong.sum() > 1 else ""
        raise DataError(f"{path}: image '{short(images[wrong.argmax()])}'{more} {why}.")


def _refuse_point(marks: Marks, wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        row, point = np.argwhere(wrong)[0]
        x, y = marks.xy[row, point]
        place = f"{marks.path}: image '{short(marks.images[row])}', point {marks.point(point)}"
        raise DataError(f"{place} at ({x:g}, {y:g}) {why}.")


def five(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """68 points (M, 68, 2) -> (M, 5, 2): left and right eye centre, nose tip, mouth corners."""
    eyes = [xy[:, list(eye)].mean(axis=1, keepdims=True) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.concatenate([*eyes, xy[:, [NOSE_TIP]], xy[:, MOUTH]], axis=1)
