"""`faces3d`: generated heads of known pose, as `uld faces3d FOLDER` writes them."""

from pathlib import Path

import pandas as pd
from pydantic.dataclasses import dataclass

from uld.artifacts.annotations import Annotations, AnnotationSet
from uld.artifacts.files import SPLITS
from uld.base import given
from uld.base.errors import DataError
from uld.base.params import CLOSED
from uld.datasets import markup, splits, tables
from uld.datasets.base import Dataset
from uld.datasets.markup import five

TABLE = "faces.csv"
COLUMNS = ("image", "split", "person", "yaw")


@dataclass(frozen=True, config=CLOSED)
class Faces3dParams:
    """Nothing to choose: number and seed are those of the folder."""


class Faces3d(Dataset):
    """The heads, split by person; mark-ups `p68` and `p5`, hidden points too, normalised by their box; yaw known.

    From the side the eye centres fall together, so their distance can be no normaliser.
    """

    Params = Faces3dParams
    makes = "uld faces3d {source} --count 1000"

    @staticmethod
    def root_of(source: Path) -> Path:
        """The folder itself."""
        return source

    def files(self) -> pd.DataFrame:
        """`image`, `split`, `group` and `yaw` in degrees, positive where the face looks to the right of the image."""
        path = self.source / TABLE
        if not given.exists(path):
            raise DataError(f"{path} is missing: make the faces with `{self.makes.format(source=self.source)}`.")
        kinds = {"image": str, "person": str, "split": str}
        read = tables.read(path, list(COLUMNS), f"{','.join(COLUMNS)} and points", dtype=kinds, keep_default_na=False)
        table = read.frame[list(COLUMNS)].assign(yaw=splits.degrees(read))
        read.refuse(~table["split"].isin(SPLITS).to_numpy(), lambda _: "the split must be train or test: correct it.")
        read.refuse(table["image"].duplicated().to_numpy(), lambda _: "the image is listed twice: keep one line.")
        return table.rename(columns={"person": "group"}).sort_values("image", ignore_index=True)

    def annotations(self, index: pd.DataFrame) -> Annotations:
        """68 points and the 5 derived from them."""
        marks = markup.check(markup.from_csv(self.source / TABLE), index)
        return Annotations(marks.images, {"p68": AnnotationSet(marks.xy), "p5": AnnotationSet(five(marks.xy))})
