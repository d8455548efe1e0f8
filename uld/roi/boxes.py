"""`boxes`: a table of boxes made elsewhere, `image,x1,y1,x2,y2`, edges in pixels of the upright photograph."""

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider, fingerprint

EDGES = ["x1", "y1", "x2", "y2"]


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
            DataError: no such file, a missing column, a value that is no number, an empty or a repeated box.
        """
        path = context.source / params.file
        if not path.is_file():
            raise DataError(
                f"{path} is missing: roi_providers.boxes.file must name a CSV with image,{','.join(EDGES)}."
            )
        try:
            table = pd.read_csv(path, dtype={"image": str}, skipinitialspace=True)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no readable CSV ({error}).") from error
        if not {"image", *EDGES} <= set(table.columns):
            raise DataError(
                f"{path} needs the columns image,{','.join(EDGES)}, not {','.join(map(str, table.columns))}."
            )
        self._values = table[EDGES].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        sides = self._values[:, 2:] - self._values[:, :2]
        wrong = ~(np.isfinite(self._values).all(axis=1) & (sides > 0).all(axis=1))
        if wrong.any():
            line = int(wrong.argmax())
            raise DataError(
                f"{path}, line {line + 2} ('{table['image'][line]}'): a box needs numbers with x1 < x2, y1 < y2."
            )
        twice = table["image"].duplicated()
        if twice.any():
            raise DataError(
                f"{path}, line {int(twice.to_numpy().argmax()) + 2}: a second box of '{table['image'][twice].iloc[0]}'."
            )
        self._row = {name: row for row, name in enumerate(table["image"])}
        self.label = f"boxes:{fingerprint([path])}"

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`."""
        return [Box.of(self._values[self._row[i]], 1.0) if i in self._row else None for i in ids]
