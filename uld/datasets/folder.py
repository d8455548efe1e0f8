"""`folder`: a user's own photographs, nested anywhere below one folder; see data/README.md for the layout."""

import logging
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.annotations import Annotations
from uld.base import given
from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.datasets import joined, markup, markup_files, normaliser, splits
from uld.datasets.base import Dataset
from uld.datasets.markup import Marks
from uld.datasets.normaliser import NormaliserParams
from uld.datasets.subset import SubsetParams
from uld.images.decode import SUFFIXES
from uld.images.walk import check_name
from uld.images.walk import walk as below

log = logging.getLogger(__name__)

OURS = frozenset({"split.csv", "boxes.csv"})  # read by this room and by `roi`, beside the mark-ups


@dataclass(frozen=True, config=CLOSED)
class FolderParams:
    """The block `datasets.folder`."""

    test: Annotated[float, Field(gt=0, lt=1)]
    max_bad: Annotated[float, Field(ge=0, le=1)]
    subset: SubsetParams | None
    normaliser: dict[str, NormaliserParams]  # of mark-ups by name; of others it is the box of the points


class Folder(Dataset):
    """Images below `source`, with optional `split.csv` and files of mark-ups (`markup_files`)."""

    Params = FolderParams

    def __init__(self, source: Path, params: FolderParams) -> None:
        """See `Dataset`."""
        super().__init__(source, params)
        self.max_bad = params.max_bad
        self.test = params.test
        self.subset = params.subset
        self.normaliser = params.normaliser

    @staticmethod
    def root_of(source: Path) -> Path:
        """The folder itself."""
        return source

    def files(self) -> pd.DataFrame:
        """Every file with an image's suffix that is neither hidden nor in a hidden folder.

        Raises:
            DataError: as `Dataset.files`, or the name of a mark-up's file is none.
            ParamsError: the normaliser is of points that there are not; all images would be read before it is needed.
        """
        images = walk(self.source)
        if self.normaliser:
            normaliser.ends(self.normaliser, self._marks)
        table = self.source / "split.csv"
        if given.exists(table):
            return splits.from_csv(table, images)
        return pd.DataFrame({"image": images, "split": "", "group": ""})

    def annotations(self, index: pd.DataFrame) -> Annotations:
        """The mark-ups that the folder has files of."""
        marks = {name: markup.check(one, index) for name, one in self._marks.items()}
        joined.refuse_contradictions(marks, index)
        return joined.join(marks, normaliser.ends(self.normaliser, marks))

    @cached_property
    def _marks(self) -> dict[str, Marks]:
        """Points as the files have them, by mark-up."""
        return {name: markup_files.read(path) for name, path in markup_files.find(self.source).items()}


def walk(folder: Path) -> np.ndarray:
    """Sorted ids (N,) of the image files below `folder`; other visible files are counted in a warning.

    Raises:
        DataError: no image below it, as `uld.images.walk.walk`, or as `markup_files.find`.
    """
    found, others = below(folder, lambda name: name in OURS or markup_files.is_one(name))
    markup_files.find(folder)
    for name in found:
        check_name(name)
    if others:
        log.warning("%s: %d files with no image suffix are passed over.", folder, others)
    if not found:
        raise DataError(f"{folder} holds no image: put {', '.join(sorted(SUFFIXES))} files there, or mend `source`.")
    return np.array(sorted(found), dtype=object)
