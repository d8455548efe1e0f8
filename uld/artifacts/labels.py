"""Pseudo-labels of a round: artifacts/labels/<round>/labels.h5."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import read_arrays, record, write_arrays

OWN, COUNT = "own/", "count"
POSE = "pose"  # name of the pose cluster among a label's own arrays (two-stage clustering)


@dataclass(frozen=True)
class Labels:
    """M labelled points of training images and of their mirror images, sorted by `flipped` and image.

    image (M,) int64 rows of boxes.csv; flipped (M,) bool: seen in the mirror image; label (M,) int64 landmark, at most
    one of each in an image and flip; xy (M, 2) float32 image pixels, also of a point that was seen in the mirror image;
    score (M,) float32, cosine to the centroid; detected (M,) bool: a detection and not a dense match.
    count: K, how many landmarks there are; one of them may have no label.
    own: arrays of a method's own beside them, by name, as `pose` (M,) of two-stage clustering or `template` (K, 2) of
    Mallis' chapter 4.
    """

    image: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    label: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    detected: NDArray[np.bool_]
    count: int
    own: dict[str, NDArray[Any]] = field(default_factory=dict)

    def own_of(self, name: str, rows: NDArray[np.int64], flipped: bool) -> NDArray[np.int64]:
        """A whole number (n,) that all labels of an image share, for the images `rows` (n,), sorted; -1 without any."""
        value = np.full(len(rows), -1, dtype=np.int64)
        mine = (self.flipped == flipped) & np.isin(self.image, rows)
        if name in self.own:
            value[np.searchsorted(rows, self.image[mine])] = self.own[name][mine]
        return value


def write_labels(path: Path, labels: Labels) -> None:
    """Write artifacts/labels/<round>/labels.h5."""
    arrays = {name: value for name, value in vars(labels).items() if name not in (COUNT, "own")}
    own = {OWN + name: value for name, value in labels.own.items()}
    write_arrays(path, arrays | {COUNT: np.asarray(labels.count)} | own)


def read_labels(path: Path) -> Labels:
    """Read artifacts/labels/<round>/labels.h5."""
    arrays = read_arrays(path, "cluster")
    count = {COUNT: int(arrays[COUNT])} if COUNT in arrays else {}
    own = {name.removeprefix(OWN): arrays.pop(name) for name in list(arrays) if name.startswith(OWN)}
    return record(Labels, arrays | count | {"own": own}, path, "cluster")
