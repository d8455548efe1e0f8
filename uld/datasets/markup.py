"""Readers of annotated points, CSV and COCO keypoints, and the checks that both must pass."""

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base import given
from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets import tables

log = logging.getLogger(__name__)

LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH = tuple(range(36, 42)), tuple(range(42, 48)), 30, [48, 54]  # of 68 points


class Marks(NamedTuple):
    """`images` (M,) ids, `xy` (M, P, 2) float32 image pixels (NaN = absent), and the file they were read from."""

    path: Path
    images: NDArray[Any]
    xy: NDArray[np.float32]


def from_csv(path: Path) -> Marks:
    """One line an image: `image,x0,y0,x1,y1,...`; an empty pair is an absent point; other columns are passed over.

    Raises:
        DataError: as `tables.read`; or a cell that is no number.
    """
    table = tables.read(path, ["image", "x0", "y0"], "image,x0,y0,x1,y1,... without a gap", dtype={"image": str})
    points = sum(re.fullmatch(r"x[0-9]+", str(name)) is not None for name in table.frame)
    columns = [f"{axis}{i}" for i in range(points) for axis in "xy"]
    if absent := [name for name in columns if name not in table.frame]:
        raise DataError(f"{path} needs the columns image,x0,y0,x1,y1,... without a gap: it lacks {absent[0]}.")
    xy = _single(table.numbers(columns)).reshape(len(table.lines), points, 2)
    return Marks(path, table.frame["image"].fillna("").to_numpy(object), xy)


def _single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32; what is too large for it becomes infinite, and is refused as such."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def from_coco(path: Path) -> Marks:
    """COCO keypoints; visibility 0 is an absent point; of several objects in an image the one of largest `area`.

    Raises:
        DataError: no COCO file; an annotation with another number of keypoints, or with values that are no numbers.
    """
    marked, names = _keypoints(path)
    first = marked[0]["keypoints"]
    length = len(first) if isinstance(first, list) else 0
    for one in marked:
        _check_keypoints(path, one, length, names)
    table = pd.DataFrame({"image": [names[one["image_id"]] for one in marked], "area": [_area(one) for one in marked]})
    largest = table.sort_values("area", kind="stable").groupby("image").tail(1).sort_values("image").index
    values = np.array([marked[i]["keypoints"] for i in largest], dtype=np.float64).reshape(len(largest), -1, 3)
    xy = np.where(values[:, :, 2:] > 0, _single(values[:, :, :2]), np.float32(np.nan))
    return Marks(path, table["image"][largest].to_numpy(object), xy)


def _keypoints(path: Path) -> tuple[list[dict[str, Any]], dict[Any, str]]:
    """The annotations that have keypoints, and the file names of images by their ids."""
    tree = _json(path)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise _no_coco(path, "it needs lists `images` and `annotations`")
    names: dict[Any, str] = {}
    seen: set[str] = set()
    for image in tree["images"]:
        number, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not isinstance(number, (int, str)) or isinstance(number, bool) or not isinstance(name, str):
            said = short(json.dumps(image))
            raise _no_coco(path, f"an image needs an `id` and a text `file_name`, and this has none: {said}")
        if number in names:
            raise DataError(f"{path}: two images have the id {short(number)}: give each an id of its own.")
        if name in seen:
            raise DataError(f"{path}: two images have the file_name '{short(name)}': keep one, with its annotations.")
        names[number] = name
        seen.add(name)
    marked = [one for one in tree["annotations"] if not isinstance(one, dict) or one.get("keypoints")]
    if not marked:
        raise DataError(f"{path} holds no annotation with keypoints: add some, or remove the file.")
    if wrong := [one for one in marked if not isinstance(one, dict) or "image_id" not in one]:
        raise _no_coco(path, f"an annotation needs an `image_id`, and this has none: {short(wrong[0])}")
    return marked, names


def _json(path: Path) -> Any:
    def refuse(literal: str) -> None:
        raise ValueError(f"{literal} is no number")

    try:
        return json.loads(given.text(path), parse_constant=refuse)
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise _no_coco(path, f"{type(error).__name__}: {error}") from error
    except RecursionError as error:
        raise _no_coco(path, "its brackets are nested too deeply") from error


def _no_coco(path: Path, why: str) -> DataError:
    return DataError(f"{path} is no COCO keypoints file ({why}): export it anew.")


def _check_keypoints(path: Path, one: dict[str, Any], length: int, names: dict[Any, str]) -> None:
    values, place = one["keypoints"], f"{path}: annotation {short(one.get('id'))}"
    if not isinstance(values, list):
        raise DataError(f"{place}: `keypoints` must be a list of numbers, not '{short(values)}'.")
    if len(values) != length or length % 3:
        raise DataError(
            f"{place} has {len(values)} keypoint values: give x, y and visibility of every point, as many points as "
            f"the first annotation ({length} values)."
        )
    if wrong := [value for value in values if not _number(value)]:
        raise DataError(f"{place}: a keypoint value is no number ('{short(wrong[0])}'): correct it.")
    if not _number(one.get("area", 0.0)):
        raise DataError(f"{place}: `area` must be a number, not '{short(one['area'])}'.")
    if not isinstance(one["image_id"], (int, str)) or one["image_id"] not in names:
        raise DataError(f"{place}: `images` lacks its image id {short(one['image_id'])}: add it.")


def _number(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 2**1000)


def _area(annotation: dict[str, Any]) -> float:
    return float(annotation.get("area", 0.0))


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
    path, images, xy = marks
    line = pd.Index(index["image"]).get_indexer(pd.Index(images))
    _refuse(
        path, images, line < 0, "is no file of the data set: correct the path (relative to the folder) or remove it"
    )
    _refuse(path, images, pd.Series(images).duplicated().to_numpy(), "is annotated twice: keep one line")
    absent = np.isnan(xy)
    half = (absent[..., 0] != absent[..., 1]) | np.isinf(xy).any(axis=-1)
    _refuse_point(marks, half, "is half absent or infinite: give x and y, or leave both empty")
    usable = (index["status"].to_numpy(object) == "ok")[line]
    side = index[["width", "height"]].to_numpy(np.float32)[line][:, None]
    far = ((xy < -0.5 - side / 2) | (xy > 1.5 * side - 0.5)).any(axis=-1) & usable[:, None]
    _refuse_point(marks, far, "lies far outside the image: are these pixels of the upright, unscaled photograph?")
    if not usable.all():
        log.warning("%s: %d annotated images are unreadable or duplicates and not used.", path, int((~usable).sum()))
    keep = np.flatnonzero(usable & ~absent.all(axis=(1, 2)))
    keep = keep[np.argsort(images[keep])]
    return Marks(path, images[keep], xy[keep])


def _refuse(path: Path, images: NDArray[Any], wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        more = f" (and {int(wrong.sum()) - 1} more)" if wrong.sum() > 1 else ""
        raise DataError(f"{path}: image '{short(images[wrong.argmax()])}'{more} {why}.")


def _refuse_point(marks: Marks, wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        row, point = np.argwhere(wrong)[0]
        x, y = marks.xy[row, point]
        raise DataError(f"{marks.path}: image '{short(marks.images[row])}', point {point} at ({x:g}, {y:g}) {why}.")


def five(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """68 points (M, 68, 2) -> (M, 5, 2): left and right eye centre, nose tip, mouth corners."""
    eyes = [xy[:, list(eye)].mean(axis=1, keepdims=True) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.concatenate([*eyes, xy[:, [NOSE_TIP]], xy[:, MOUTH]], axis=1)
