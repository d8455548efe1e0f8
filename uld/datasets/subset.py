"""A part of a large data set: so many images of each split. The others are never opened."""

import logging
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.files import SPLITS
from uld.base import random
from uld.base.params import CLOSED

log = logging.getLogger(__name__)

UNUSED = "unused"  # in the index, status of a file that the subset leaves out
Count = Annotated[int, Field(ge=1)] | None


@dataclass(frozen=True, config=CLOSED)
class SubsetParams:
    """How many images of each split are used, all where it is None: the first ones by id, or random ones."""

    train: Count
    test: Count
    choose: Literal["first", "random"]

    def of(self, split: str) -> int | None:
        """How many images of a split are asked for."""
        return self.train if split == "train" else self.test


def chosen(split: NDArray[np.object_], params: SubsetParams, seed: int) -> NDArray[np.bool_]:
    """Which images are used.

    Random ones are drawn image by image, whatever groups there are, from (seed, "subset"); of more images the same
    seed draws these and others. Where there are fewer than asked for, all are used, and a warning says so.

    Args:
        split: (N,) "train" or "test", of images sorted by id.

    Returns:
        (N,)
    """
    used = np.zeros(len(split), dtype=np.bool_)
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(split == name)
        asked = params.of(name)
        if asked is not None and asked > len(rows):
            log.warning("datasets.folder.subset.%s: there are %d images, not %d: all are used.", name, len(rows), asked)
        if params.choose == "random":
            rows = random.rng(seed, "subset", number).permutation(rows)
        used[rows[:asked]] = True
    return used


def sizes(train: int, test: int, params: SubsetParams | None) -> tuple[int, int]:
    """How many of so many images of either split are used."""
    if params is None:
        return train, test
    return min(train, params.train or train), min(test, params.test or test)


def unused(files: pd.DataFrame) -> pd.DataFrame:
    """Files that the subset leaves out, as lines of the index."""
    return files.assign(width=0, height=0, sha256="", status=UNUSED, reason="not in the subset")
