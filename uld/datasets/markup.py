"""Readers of annotated points, CSV and COCO keypoints, and the checks that both must pass."""

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base.errors import DataError

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
        DataError: missing columns, a line with another number of cells, or a cell that is no number.
    """
    try:
        points = _header(path)
        table = pd.read_csv(path, dtype={"image": str}, skipinitialspace=True)
    except (pd.errors.ParserError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no readable CSV ({error}).") from error
    columns = [f"{axis}{i}" for i in range(points) for axis in "xy"]
    for name in columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            wrong = pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()
            line = int(wrong.to_numpy().argmax())
            raise DataError(f"{path}, line {line + 2}: '{table[name][line]}' in column {name} is no number.")
    xy = table[columns].to_numpy(np.float32).reshape(len(table), points, 2)
    return Marks(path, table["image"].to_numpy(object), xy)


def _header(path: Path) -> int:
    """P, after checking that each line is as long as the header: a short line must not pass for absent points."""
    with path.open(newline="") as file:
        lines = csv.reader(file, skipinitialspace=True)
        header = next(lines, [])
        points = sum(re.fullmatch(r"x\d+", name) is not None for name in header)
        wanted = {"image"} | {f"{axis}{i}" for i in range(points) for axis in "xy"}
        if not points or not wanted <= set(header):
            raise DataError(f"{path} needs the columns image,x0,y0,x1,y1,... without a gap.")
        for cells in lines:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path}, line {lines.line_num}: {len(cells)} cells where the header has {len(header)} "
                    f"({points} points): leave cells of absent points empty."
                )
    return points


def from_coco(path: Path) -> Marks:
    """COCO keypoints; visibility 0 is an absent point; of several objects in an image the one of largest `area`.

    Raises:
        DataError: no COCO file, or an annotation with another number of keypoints.
    """
    marked, table = _keypoints(path)
    length = int(table["length"][0])
    wrong = (table["length"] != length) | (table["length"] % 3 != 0)
    if wrong.any():
        bad = marked[int(wrong.to_numpy().argmax())]
        raise DataError(
            f"{path}: annotation {bad.get('id')} has {len(bad['keypoints'])} keypoint values: give x, y and "
            f"visibility of every point, as many points as the first annotation ({length} values)."
        )
    if table["image"].isna().any():
        bad = marked[int(table["image"].isna().to_numpy().argmax())]
        raise DataError(f"{path}: annotation {bad.get('id')}: `images` lacks its image id {bad['image_id']}.")
    largest = table.sort_values("area", kind="stable").groupby("image").tail(1).sort_values("image").index
    try:
        values = np.array([marked[i]["keypoints"] for i in largest], dtype=np.float32).reshape(len(largest), -1, 3)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a keypoint value is no number ({error}).") from error
    xy = np.where(values[:, :, 2:] > 0, values[:, :, :2], np.float32(np.nan))
    return Marks(path, table["image"][largest].to_numpy(object), xy)


def _keypoints(path: Path) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The annotations that have keypoints, and of each: `image` (None if unknown), `area`, `length` of its values."""
    try:
        tree = json.loads(path.read_text())
        names = {image["id"]: image["file_name"] for image in tree["images"]}
        marked = [a for a in tree["annotations"] if a.get("keypoints")]
        if not marked:
            raise DataError(f"{path} holds no annotation with keypoints.")
        table = pd.DataFrame(
            {
                "image": [names.get(a["image_id"]) for a in marked],
                "area": [a.get("area", 0.0) for a in marked],
                "length": [len(a["keypoints"]) for a in marked],
            }
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no COCO keypoints file ({type(error).__name__}: {error}).") from error
    return marked, table


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
        raise DataError(f"{path}: image '{images[wrong.argmax()]}'{more} {why}.")


def _refuse_point(marks: Marks, wrong: NDArray[np.bool_], why: str) -> None:
    if wrong.any():
        row, point = np.argwhere(wrong)[0]
        x, y = marks.xy[row, point]
        raise DataError(f"{marks.path}: image '{marks.images[row]}', point {point} at ({x:g}, {y:g}) {why}.")


def five(xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """68 points (M, 68, 2) -> (M, 5, 2): left and right eye centre, nose tip, mouth corners."""
    eyes = [xy[:, list(eye)].mean(axis=1, keepdims=True) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.concatenate([*eyes, xy[:, [NOSE_TIP]], xy[:, MOUTH]], axis=1)
