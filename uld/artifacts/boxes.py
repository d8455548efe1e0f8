"""Object boxes: artifacts/roi/boxes.csv."""

from pathlib import Path

import pandas as pd

from uld.artifacts.files import damaged, read_table

EDGES = ["x1", "y1", "x2", "y2"]


def read_boxes(path: Path) -> pd.DataFrame:
    """artifacts/roi/boxes.csv: its order is the row order of crops, features and predictions."""
    table = read_table(path, "roi", ("image", "split", "provider"), EDGES)
    if not all(map(pd.api.types.is_numeric_dtype, table[EDGES].dtypes)):
        raise damaged(path, "roi", "an edge of a box is no number")
    return table
