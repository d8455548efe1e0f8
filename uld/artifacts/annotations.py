"""Annotated points of images: artifacts/data/annotations.h5."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.files import read_arrays, record, write_arrays

BOX = "the size of the points' box"  # what errors are divided by where no points span a normaliser


@dataclass(frozen=True)
class AnnotationSet:
    """One mark-up of the images: `xy` (N, P, 2) float32, image pixels, NaN = absent.

    `left` and `right` are the point indices whose two means span the normaliser (the eye centres of a face); both
    empty: the square root of the area of the annotated points' box.
    """

    xy: NDArray[np.float32]
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()

    @property
    def spanned(self) -> bool:
        """Whether points span the normaliser."""
        return bool(self.left and self.right)


@dataclass(frozen=True)
class Annotations:
    """`images` (N,) ids and named mark-ups aligned with them; no set at all for unlabelled data."""

    images: NDArray[Any]
    sets: dict[str, AnnotationSet] = field(default_factory=dict)


def write_annotations(path: Path, annotations: Annotations) -> None:
    """Write artifacts/data/annotations.h5."""
    arrays: dict[str, NDArray[Any]] = {"images": np.asarray(annotations.images, dtype=object)}
    for name, one in annotations.sets.items():
        arrays[f"{name}/xy"] = one.xy.astype(np.float32)
        arrays[f"{name}/left"] = np.array(one.left, dtype=np.int32)
        arrays[f"{name}/right"] = np.array(one.right, dtype=np.int32)
    write_arrays(path, arrays)


def read_annotations(path: Path) -> Annotations:
    """Read artifacts/data/annotations.h5."""
    arrays = read_arrays(path, "data")
    names = sorted({key.split("/")[0] for key in arrays if "/" in key})
    sets = {}
    for name in names:
        parts = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
        one = record(AnnotationSet, parts, path, "data")
        sets[name] = replace(one, left=tuple(map(int, one.left)), right=tuple(map(int, one.right)))
    images = {key: value for key, value in arrays.items() if "/" not in key}
    return record(Annotations, images | {"sets": sets}, path, "data")


def align(annotations: Annotations, images: NDArray[Any]) -> dict[str, AnnotationSet]:
    """The mark-ups in the order of `images` (N,): xy (N, P, 2), NaN for an image without annotation."""
    if not len(annotations.images):
        return {}
    row = pd.Index(annotations.images).get_indexer(pd.Index(images))
    return {
        name: replace(one, xy=np.where(row[:, None, None] < 0, np.float32(np.nan), one.xy[row]))
        for name, one in annotations.sets.items()
    }
