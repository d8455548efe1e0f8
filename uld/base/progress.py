"""How far a long loop is: a bar with the time left where a person looks on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from uld.base import runtime


@contextmanager
def bar(name: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal that vanishes at the end; nothing elsewhere, and nothing in any process but the first.

    Args:
        done: how many of `total` lie behind us at the start.

    Yields:
        A function that takes how many are done by now.
    """
    console = Console()
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal or bool(runtime.process())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2, disable=hidden) as shown:
        task = shown.add_task(name, total=total, completed=done)
        yield lambda count: shown.update(task, completed=count)
