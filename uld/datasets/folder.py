"""`folder`: a user's own photographs, nested anywhere below one folder; see data/README.md for the layout."""

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.annotations import Annotations, AnnotationSet
from uld.base import given
from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.datasets import markup, splits
from uld.datasets.base import Dataset
from uld.images.decode import SUFFIXES
from uld.images.walk import check_name
from uld.images.walk import walk as below

log = logging.getLogger(__name__)

OURS = frozenset({"split.csv", "landmarks.csv", "coco.json", "boxes.csv"})  # read by this room or by `roi`


@dataclass(frozen=True, config=CLOSED)
class FolderParams:
    """The block `datasets.folder`."""

    test: Annotated[float, Field(gt=0, lt=1)]
    max_bad: Annotated[float, Field(ge=0, le=1)]


class Folder(Dataset):
    """Images below `source`, with optional `split.csv` and `landmarks.csv` or `coco.json` (mark-up `points`)."""

    Params = FolderParams

    def __init__(self, source: Path, params: FolderParams) -> None:
        """See `Dataset`."""
        super().__init__(source, params)
        self.max_bad = params.max_bad
        self.test = params.test

    @staticmethod
    def root_of(source: Path) -> Path:
        """The folder itself."""
        return source

    def files(self) -> pd.DataFrame:
        """Every file with an image's suffix that is neither hidden nor in a hidden folder."""
        images = walk(self.source)
        table = self.source / "split.csv"
        if given.exists(table):
            return splits.from_csv(table, images)
        return pd.DataFrame({"image": images, "split": "", "group": ""})

    def annotations(self, index: pd.DataFrame) -> Annotations:
        """Mark-up `points`, normalised by the box of the points, if the folder has one."""
        table, coco = self.source / "landmarks.csv", self.source / "coco.json"
        if given.exists(table) and given.exists(coco):
            raise DataError(f"{self.source} has both landmarks.csv and coco.json: keep one.")
        if not given.exists(table) and not given.exists(coco):
            return Annotations(np.empty(0, dtype=object))
        marks = markup.check(markup.from_csv(table) if given.exists(table) else markup.from_coco(coco), index)
        return Annotations(marks.images, {"points": AnnotationSet(marks.xy)})


def walk(folder: Path) -> np.ndarray:
    """Sorted ids (N,) of the image files below `folder`; other visible files are counted in a warning.

    Raises:
        DataError: no image below it, or as `uld.images.walk.walk`.
    """
    found, others = below(folder, OURS)
    for name in found:
        check_name(name)
    if others:
        log.warning("%s: %d files with no image suffix are passed over.", folder, others)
    if not found:
        raise DataError(f"{folder} holds no image: put {', '.join(sorted(SUFFIXES))} files there, or mend `source`.")
    return np.array(sorted(found), dtype=object)
