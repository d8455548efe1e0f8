"""Descriptors that need not fit in memory: a temporary file, read piece by piece."""

import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from uld.base.scratch import unnamed_file

# rows: a multiple of the 4,096 that faiss takes at a time, and so many that it takes its way for large tables; so a
# nearest centroid found piece by piece is, bit by bit, that of the whole
PIECE = 2**17


def pieces(count: int) -> Iterator[slice]:
    """Slices of `PIECE` of `count` rows, of which the last one takes the rest too; one empty slice of none."""
    starts = range(0, max(1, count - PIECE + 1), PIECE)
    return (slice(start, stop) for start, stop in pairwise([*starts, count]))


class Spool:
    """M rows of D float32 values, appended in turn: `shape` (M, D).

    They lie in a file without a name in the scratch folder, which vanishes with the spool.
    """

    def __init__(self) -> None:
        self.shape = 0, 0
        self._file = unnamed_file()
        weakref.finalize(self, self._file.close)

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add rows (m, D).

        Raises:
            OSError: the disk is full.
        """
        left = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1).view(np.uint8)
        while len(left):
            left = left[self._file.write(left.data) :]
        self.shape = self.shape[0] + len(rows), rows.shape[1]

    def __len__(self) -> int:
        """M."""
        return self.shape[0]

    def __getitem__(self, index: slice | NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.float32]:
        """Rows as of an array: a slice without a step is mapped, not read; others are copied into memory.

        Numbers of rows are 0 or more, in any order.
        """
        if isinstance(index, slice):
            return self._mapped(*index.indices(len(self))[:2])
        rows = np.flatnonzero(index) if index.dtype == np.bool_ else index
        order = np.argsort(rows, kind="stable")
        ranked = rows[order]
        out = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        for piece in pieces(len(self)):  # a mapping of its own each: what is read leaves memory with it
            mine = slice(*np.searchsorted(ranked, [piece.start, piece.stop]))
            if mine.start < mine.stop:
                out[order[mine]] = self[piece][ranked[mine] - piece.start]
        return out

    def _mapped(self, start: int, stop: int) -> NDArray[np.float32]:
        size = self.shape[1]
        if start >= stop or not size:
            return np.empty((max(0, stop - start), size), dtype=np.float32)
        return np.memmap(self._file, np.float32, "r", 4 * start * size, (stop - start, size)).view(np.ndarray)


Table: TypeAlias = NDArray[np.float32] | Spool


def take(x: Table, index: NDArray[np.integer] | NDArray[np.bool_]) -> Table:
    """Rows (m, D) of points (M, D), in memory if those are, else in a spool of their own."""
    if not isinstance(x, Spool):
        return x[index]
    rows = np.flatnonzero(index) if index.dtype == np.bool_ else index
    taken = Spool()
    for piece in pieces(len(rows)):
        taken.append(x[rows[piece]])
    return taken
