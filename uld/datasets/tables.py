"""Tables that a user gives, as CSV: read so that no line is moved, cut or passed over without a word."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.base import given
from uld.base.errors import DataError
from uld.base.shown import short


@dataclass(frozen=True)
class Table:
    """A CSV file: N lines below its header.

    path: its place. header: names of the columns, as they stand there. frame (N rows): cells by column. lines (N,):
    where each stands in the file, for messages.
    """

    path: Path
    header: tuple[str, ...]
    frame: pd.DataFrame
    lines: NDArray[np.int64]

    def needs(self, columns: Sequence[str], says: str) -> None:
        """Refuse a table that lacks one of the columns or has it twice; `says` which ones it may have.

        Raises:
            DataError: naming what is absent or twice.
        """
        count = Counter(name for name in self.header if name in self.frame)
        if absent := [name for name in columns if not count[name]]:
            has, lacks = short(",".join(self.header)), short(", ".join(absent))
            raise DataError(f"{self.path} needs the columns {says}: it has {has}, and lacks {lacks}.")
        if twice := [name for name in columns if count[name] > 1]:
            raise DataError(f"{self.path} has the column '{short(twice[0])}' twice: keep one.")

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """The columns as (N, C) float64, NaN where a cell is empty.

        Raises:
            DataError: a cell that is no number.
        """
        return np.stack([self._numbers(name) for name in columns], axis=1)

    def _numbers(self, name: str) -> NDArray[np.float64]:
        cells = self.frame[name]
        if cells.dtype.kind in "iuf":
            return cells.to_numpy(np.float64)
        # as text: pandas makes true and false, and integers that no float holds, of some columns
        numbers = pd.to_numeric(cells.map(str, na_action="ignore").astype(object), errors="coerce")
        wrong = numbers.isna() & cells.notna()
        self.refuse(wrong.to_numpy(), lambda row: f"'{short(cells[row])}' in column {name} is no number: correct it.")
        return numbers.to_numpy(np.float64)

    def refuse(self, wrong: Any, why: Callable[[int], str]) -> None:
        """Raise for the first of the rows that are `wrong`, (N,) bool; `why` says by its number what is wrong."""
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.path}, line {self.lines[row]}: {why(row)}")


def read(path: Path, needed: Sequence[str], says: str, **options: Any) -> Table:
    """Read a CSV in UTF-8 with a header, in which each line has as many cells as the header.

    Args:
        path: the file.
        needed: columns that it must have, once each.
        says: the columns that it may have, for the message.
        options: of `pandas.read_csv`.

    Raises:
        DataError: no regular file or no such table; it holds no line; a column is missing or stands there twice.
    """
    text = given.text(path)
    if "\0" in text:
        raise DataError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds a NUL byte: remove it.")
    try:
        header, lines = _outline(path, text)
        frame = pd.read_csv(io.StringIO(text, newline=""), skipinitialspace=True, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no readable CSV ({str(error).strip()}): save it as CSV with a header.") from error
    table = Table(path, tuple(header), frame, np.array(lines))
    table.needs(needed, says)
    if not len(frame):
        raise DataError(f"{path} has no line below its header: add lines, or remove the file.")
    if len(frame) != len(lines):
        raise DataError(f"{path} is no readable CSV (its quotes are unbalanced): write a quote within a cell twice.")
    return table


def _outline(path: Path, text: str) -> tuple[list[str], list[int]]:
    """The header, and the numbers of the lines below it, after checking that each has as many cells.

    pandas takes the first cell of a longer line for a row's name and moves all the others, and it fills a shorter one.
    """
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = next((cells for cells in rows if cells), [])
    lines = []
    for cells in rows:
        if cells and len(cells) != len(header):
            raise DataError(
                f"{path}, line {rows.line_num}: {len(cells)} cells where the header has {len(header)}: leave absent "
                "cells empty, and quote a name that holds a comma."
            )
        lines += [rows.line_num] if cells else []
    return header, lines
