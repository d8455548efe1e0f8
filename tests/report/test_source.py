"""The block `report` of params.yaml."""

import re
from pathlib import Path

import pandas as pd
import pytest

from uld.base import params
from uld.base.errors import ParamsError
from uld.evaluate.poses import COLUMNS, Poses
from uld.report import source

NONE = Poses({}, pd.DataFrame(columns=COLUMNS))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"row": "a", "grid": 0, "worst": 3}, "report.grid"),
        ({"row": "a", "grid": 7, "wosrt": 3}, "report.wosrt: unknown key"),
        ({"row": "a", "grid": 7}, "report.worst: key is missing"),
        ({"row": 1, "grid": 7, "worst": 3}, "report.row"),
    ],
)
def test_wrong_params(block: dict[str, object], message: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(message)):
        params.build(source.ReportParams, block, "report")


def test_an_unknown_row() -> None:
    chosen = source.ReportParams(row="fuond", grid=7, worst=3, tables={})
    with pytest.raises(ParamsError, match=r"report.row: 'fuond' is no row; rows has found, mean_shape"):
        source.read(chosen, ["found", "mean_shape"], {}, "orl", "canonical", Path("params.yaml"), NONE)
