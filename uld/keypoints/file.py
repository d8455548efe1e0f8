"""Points out of a file: those of a detector of one's own, or those that `uld points` writes.

The file is a CSV with the columns image, x, y and, if points are not all alike, score. An image is called as in
artifacts/data/index.csv, and x and y are pixels of the upright photograph. params.yaml holds the file's SHA-256, so
that DVC sees when the file has changed.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic.dataclasses
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.boxes import read_boxes
from uld.artifacts.index import read_index
from uld.base import given
from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.base.shown import short
from uld.datasets import tables
from uld.geometry import coords
from uld.geometry.coords import Affine
from uld.geometry.frames import Rows
from uld.keypoints.base import Keypoints
from uld.keypoints.classical import described
from uld.sources.views import View, Views

# Stages that read points depend on artifacts/roi, and so on these rows. They read the index to refuse lines and for
# nothing else: the crops change wherever it does.
BOXES, INDEX = Path("artifacts/roi/boxes.csv"), Path("artifacts/data/index.csv")
SAYS = "image,x,y and perhaps score"


@pydantic.dataclasses.dataclass(frozen=True, config=CLOSED)
class FileParams:
    """Params of File.

    path: the CSV, absolute or below the project's folder. sha256: of its bytes, in hexadecimal.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Listed:
    """P lines of a file of points: image, (P, 3) x, y and score; `refuse` tells of a line, as `tables.Table` does."""

    image: "pd.Series[str]"
    points: NDArray[np.float64]
    refuse: Callable[[NDArray[np.bool_], Callable[[int], str]], None]


class File(Keypoints):
    """Points that are known beforehand; an image without a line has none."""

    Params = FileParams
    remedy = "see that the file names training images, and that its x and y are pixels of the photographs"

    def __init__(self, params: FileParams) -> None:
        """Read and check the file.

        Raises:
            DataError: as `read` and `check`. ArtifactError: the stages data and roi have not run.
        """
        listed = read(params)
        check(listed, read_index(INDEX))
        row = pd.Index(read_boxes(BOXES)["image"]).get_indexer(pd.Index(listed.image))
        order = np.lexsort((-listed.points[:, 2], row))  # equal scores stay in the order of the file
        self._row, self._points = row[order], listed.points[order]
        self._shown: list[NDArray[np.float32]] = []

    def of(self, views: Views, rows: Rows, view: View) -> "File":
        """See `Keypoints`; what lies outside a view is left out."""
        shown, size = copy.copy(self), views.frames.size
        to_view = coords.compose(view.affine, views.frames.affine[rows])
        shown._shown = [self._seen(row, affine, size) for row, affine in zip(rows, to_view, strict=True)]
        return shown

    def _seen(self, row: int, to_view: Affine, size: int) -> NDArray[np.float32]:
        """Points (P, 3) of one image in a view of `size` pixels a side."""
        own = self._points[slice(*np.searchsorted(self._row, [row, row + 1]))]
        xy = coords.apply(to_view, own[:, :2])
        inside = ((xy >= -0.5) & (xy <= size - 0.5)).all(1)
        return np.column_stack([xy, own[:, 2]])[inside].astype(np.float32)

    def __call__(self, images: Tensor) -> list[NDArray[np.float32]]:
        """See `Keypoints`; the images are those of `of`, and the pixels are not looked at."""
        assert len(images) == len(self._shown), "a file knows images by their rows: call `of` first"
        return self._shown

    def describe(self, images: Tensor, points: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Keypoints`: SIFT's descriptors of the images as they are, as `classical` describes."""
        return described(images, points, scale=1)


def read(params: FileParams) -> Listed:
    """The lines of a file of points.

    Raises:
        DataError: there is no such file or it has another hash; it is no such table, or a number is missing.
    """
    path = Path(params.path)
    _refuse_other(path, params.sha256)
    table = tables.read(path, ["image", "x", "y"], SAYS, dtype={"image": str}, keep_default_na=False, na_values=[""])
    columns = ["x", "y"]
    if "score" in table.header:
        table.needs(["score"], SAYS)
        columns.append("score")
    image, values = table.frame["image"].fillna(""), table.numbers(columns)
    table.refuse((image == "").to_numpy(), lambda _: "a point without an image: name it, or remove the line.")
    table.refuse(
        ~np.isfinite(values).all(1),
        lambda row: (
            f"the point of '{short(image[row])}' needs finite {', '.join(columns)}: correct or remove the line. "
            "An image without points has no line."
        ),
    )
    return Listed(image, values if len(columns) == 3 else np.insert(values, 2, 1, axis=1), table.refuse)


def _refuse_other(path: Path, sha256: str) -> None:
    """Refuse a file that is not the one of params.yaml."""
    if not given.exists(path):
        raise DataError(f"{path} is missing: put the file of points there, or mend `path` where keypoints.by is file.")
    found = hashlib.sha256(given.content(path)).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} has the SHA-256 {found}, and params.yaml says {short(repr(sha256))}: put the first one there if "
            "this is the file that you mean, else bring back the other file."
        )


def check(listed: Listed, index: pd.DataFrame) -> None:
    """Refuse points of images that are not there, and points outside of their photograph.

    Args:
        index: artifacts/data/index.csv.

    Raises:
        DataError: naming the first such line.
    """
    image, xy = listed.image, listed.points[:, :2]
    line = pd.Index(index["image"]).get_indexer(pd.Index(image))
    listed.refuse(
        line < 0,
        lambda row: (
            f"'{short(image[row])}' is no image of the data set: correct it (a path below the folder of the "
            "images, as in artifacts/data/index.csv), or remove the line."
        ),
    )
    size = index[["width", "height"]].to_numpy()[line]
    opened = (index["status"] == "ok").to_numpy()[line]  # the size of any other file is not known
    listed.refuse(
        opened & ((xy < -0.5) | (xy > size - 0.5)).any(1),
        lambda row: (
            f"({xy[row, 0]:g}, {xy[row, 1]:g}) lies outside the {size[row, 0]} x {size[row, 1]} pixels of "
            f"'{short(image[row])}': give x and y in pixels of the upright photograph, or remove the line."
        ),
    )
