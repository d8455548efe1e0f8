"""Object boxes: artifacts/roi/boxes.csv."""

from pathlib import Path

import pandas as pd

from uld.artifacts.files import read_table


def read_boxes(path: Path) -> pd.DataFrame:
    """artifacts/roi/boxes.csv: its order is the row order of crops, features and predictions."""
    return read_table(path, "roi", text=("image", "split", "provider"))
