"""Which files of a folder hold mark-ups: `landmarks.csv` or `coco.json` is `points`, `landmarks-eyes.csv` is `eyes`."""

import os
import re
from pathlib import Path

from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets import coco, markup
from uld.datasets.markup import Marks

POINTS = "points"  # the mark-up of a file without a name
NAME = re.compile(r"(?:landmarks(?:-([A-Za-z][A-Za-z0-9_-]*))?\.csv|coco(?:-([A-Za-z][A-Za-z0-9_-]*))?\.json)")
ALIKE = re.compile(r"(?:landmarks|coco)[^/]*\.(?:csv|json)", re.IGNORECASE)  # whoever gives it such a name means one
TAKEN = ("images", "rule")  # what stands beside mark-ups in annotations.h5 and in the metrics


def is_one(name: str) -> bool:
    """Whether a name below the folder is that of a mark-up's file, even if a wrong one."""
    return ALIKE.fullmatch(name) is not None


def find(folder: Path) -> dict[str, Path]:
    """The file of each mark-up, by its name, sorted.

    Raises:
        DataError: a file whose name is none, or two files of one mark-up.
    """
    found: dict[str, Path] = {}
    for file in sorted(filter(is_one, os.listdir(folder))):
        name = _name(folder / file)
        if name in found:
            raise DataError(f"{folder / file}: {found[name].name} holds the mark-up '{name}' too: keep one of them.")
        found[name] = folder / file
    return dict(sorted(found.items()))


def _name(path: Path) -> str:
    """The mark-up that a file holds, by its name."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise DataError(
            f"{path.parent / short(path.name)}: is no name of a mark-up's file: call it landmarks-NAME.csv or "
            "coco-NAME.json, NAME of letters, digits, '_' and '-' that begins with a letter, or move it elsewhere."
        )
    name = match[1] or match[2] or POINTS
    if name in TAKEN:
        raise DataError(f"{path}: a mark-up cannot be called '{name}': choose another name.")
    return name


def read(path: Path) -> Marks:
    """The points of one of these files.

    Raises:
        DataError: as `markup.from_csv` or `coco.read`.
    """
    return markup.from_csv(path) if path.suffix == ".csv" else coco.read(path)
