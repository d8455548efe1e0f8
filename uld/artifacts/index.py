"""What the data set says of its images: artifacts/data/index.csv."""

from pathlib import Path

import pandas as pd

from uld.artifacts.files import read_table

TEXT = ("image", "split", "group", "sha256", "status", "reason")
NUMBERS = ("width", "height")


def read_index(path: Path) -> pd.DataFrame:
    """A line a file found, sorted by `image`; `yaw` is there if the data set knows it."""
    return read_table(path, "data", TEXT, NUMBERS)
