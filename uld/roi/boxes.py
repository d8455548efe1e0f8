"""`boxes`: a table of boxes made elsewhere, `image,x1,y1,x2,y2`, edges in pixels of the upright photograph."""

import numpy as np
from pydantic.dataclasses import dataclass

from uld.base import given
from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.base.shown import short
from uld.datasets import tables
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider, fingerprint

EDGES = ["x1", "y1", "x2", "y2"]
LEAST, MOST = 1, 2**20  # pixels: a box over one pixel is one wide, and no image that can be decoded is wider than this


@dataclass(frozen=True, config=CLOSED)
class BoxesParams:
    """`file`: the table, absolute or below the data set's source folder."""

    file: str


class Boxes(Provider):
    """One box an image, from a CSV; images that it leaves out have none."""

    Params = BoxesParams
    general = False

    def __init__(self, params: BoxesParams, context: Context) -> None:
        """Read and check the table.

        Raises:
            DataError: no such file or as `tables.read`; a value that is no number, an empty, absurd or repeated box.
        """
        path = context.source / params.file
        if not given.exists(path):
            raise DataError(
                f"{path} is missing: roi_providers.boxes.file must name a CSV with image,{','.join(EDGES)}."
            )
        table = tables.read(path, ["image", *EDGES], f"image,{','.join(EDGES)}", dtype={"image": str})
        images = table.frame["image"].fillna("")
        self._values = table.numbers(EDGES)
        sides = self._values[:, 2:] - self._values[:, :2]

        def named(row: int) -> str:
            return f"the box of '{short(images[row])}'"

        table.refuse(
            ~(np.isfinite(self._values) & np.tile(sides > 0, 2)).all(axis=1),
            lambda row: f"{named(row)} needs numbers with x1 < x2, y1 < y2: correct it.",
        )
        table.refuse(
            (sides < LEAST).any(axis=1),
            lambda row: f"{named(row)} is less than {LEAST} pixel wide or high: give edges in pixels.",
        )
        table.refuse(
            (np.abs(self._values) > MOST).any(axis=1),
            lambda row: f"{named(row)} lies more than {MOST} pixels out: give edges in pixels.",
        )
        table.refuse((images == "").to_numpy(), lambda _: "a box without an image: name it, or remove the line.")
        table.refuse(images.duplicated().to_numpy(), lambda row: f"a second box of '{images[row]}': keep one line.")
        self._row = {name: row for row, name in enumerate(images)}
        self.listed = frozenset(self._row)
        self.label = f"boxes:{fingerprint([path])}"

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`."""
        return [Box.of(self._values[self._row[i]], 1.0) if i in self._row else None for i in ids]
