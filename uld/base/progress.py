"""How far a long loop is: a bar with the time left where a person looks on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from uld.base import runtime

_bars: list[Progress] = []  # those that are up: a terminal shows one at a time


@contextmanager
def bar(name: str, total: int, done: int = 0, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal that vanishes at the end.

    There is none elsewhere, none inside the loop of another bar, and none in any process but the first.

    Args:
        done: how many of `total` lie behind us at the start.
        console: where it is shown; standard output if there is none.

    Yields:
        A function that takes how many more are done.
    """
    console = console or Console()
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal or bool(runtime.process()) or bool(_bars)
    progress = Progress(*columns, console=console, transient=True, refresh_per_second=2, disable=hidden)
    task = progress.add_task(name, total=total, completed=done)
    _bars.append(progress)
    try:
        with progress:
            yield lambda count: progress.advance(task, count)
    finally:
        _bars.remove(progress)


def batches(name: str, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """`runtime.batches(rows)` with a bar that counts images."""
    with bar(name, len(rows)) as advance:
        for batch in runtime.batches(rows):
            yield batch
            advance(len(batch))
