"""Reader of annotated points in COCO's format of keypoints."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uld.base import given
from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets.markup import Marks, single


def read(path: Path) -> Marks:
    """Points of images; visibility 0 is an absent point; of several objects in an image the one of largest `area`.

    Raises:
        DataError: no COCO file; an annotation with another number of keypoints, or with values that are no numbers;
            categories that name other points than there are, or each other ones.
    """
    tree = _tree(path)
    marked, images = _keypoints(path, tree)
    first = marked[0]["keypoints"]
    length = len(first) if isinstance(first, list) else 0
    for one in marked:
        _check_keypoints(path, one, length, images)
    table = pd.DataFrame({"image": [images[one["image_id"]] for one in marked], "area": [_area(one) for one in marked]})
    largest = table.sort_values("area", kind="stable").groupby("image").tail(1).sort_values("image").index
    values = np.array([marked[i]["keypoints"] for i in largest], dtype=np.float64).reshape(len(largest), -1, 3)
    xy = np.where(values[:, :, 2:] > 0, single(values[:, :, :2]), np.float32(np.nan))
    return Marks(path, table["image"][largest].to_numpy(object), xy, _names(path, tree, marked, length // 3))


def _tree(path: Path) -> dict[str, Any]:
    tree = _json(path)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("images", "annotations")):
        raise _no_coco(path, "it needs lists `images` and `annotations`")
    return tree


def _keypoints(path: Path, tree: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[Any, str]]:
    """The annotations that have keypoints, and the file names of images by their ids."""
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


def _names(path: Path, tree: dict[str, Any], marked: list[dict[str, Any]], points: int) -> tuple[str, ...]:
    """Names of the `points`, in their order, by the categories of the annotations; none where these name none."""
    of = {repr(one.get("category_id")) for one in marked}  # as text: anything may stand there
    found = {
        _category(path, one, points): short(one.get("name"))
        for one in _categories(path, tree)
        if one.get("keypoints") and repr(one.get("id")) in of
    }
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise DataError(
            f"{path}: its categories '{first}' and '{second}' name the keypoints otherwise: export each as a mark-up "
            "of its own, coco-NAME.json."
        )
    return next(iter(found), ())


def _categories(path: Path, tree: dict[str, Any]) -> list[dict[str, Any]]:
    found = tree.get("categories", [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _no_coco(path, "its `categories` must be a list of blocks")
    return found


def _category(path: Path, one: dict[str, Any], points: int) -> tuple[str, ...]:
    """The names that a category has for the keypoints."""
    names, place = one["keypoints"], f"{path}: category '{short(one.get('name'))}'"
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: `keypoints` must be a list of names, not '{short(names)}'.")
    if len(names) != points:
        raise DataError(f"{place} has names for {len(names)} keypoints of {points}: name each, in the order of values.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{place} has the keypoint '{short(twice[0])}' twice: give each a name of its own.")
    return tuple(names)
