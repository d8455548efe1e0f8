"""What the data stage asks of a data set."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from uld.artifacts.annotations import Annotations
from uld.datasets.subset import SubsetParams


class Dataset(ABC):
    """Image files below one folder, perhaps with a split, groups and annotations.

    `Params` is the block `datasets.<name>` of params.yaml; `max_bad` the share of unreadable files above which the
    stage stops; `test` the share of images held out where the data set brings no split; `subset` how many images are
    used, None for all. `makes` is the command that writes the files into `{source}`, empty where they must be brought.
    """

    Params: ClassVar[type]
    makes: ClassVar[str] = ""
    max_bad: float = 0.0
    test: float = 0.0
    subset: SubsetParams | None = None

    def __init__(self, source: Path, params: Any) -> None:
        """`source` is the folder named in params.yaml, `params` an instance of `Params`."""
        self.source = source
        self.root = self.root_of(source)

    @staticmethod
    @abstractmethod
    def root_of(source: Path) -> Path:
        """The folder that image ids are relative to: `root / id` is the file."""

    @abstractmethod
    def files(self) -> pd.DataFrame:
        """One line a file, sorted by `image`: `image`, `split` (all empty if there is none), `group` (or empty).

        Where it is known also `yaw`, in degrees, positive where the object looks to the right of the image.

        Raises:
            DataError: no folder, no files, or a split that does not fit them.
        """

    @abstractmethod
    def annotations(self, index: pd.DataFrame) -> Annotations:
        """Mark-ups of the images whose `status` is `ok` in the finished index; M = 0 where there are none.

        Raises:
            DataError: a mark-up that does not fit the images.
        """
