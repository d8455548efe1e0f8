"""What has to be settled before anything is imported: signals, and how threads wait for each other.

Ctrl-C and SIGTERM end what comes before the work, and every import, in one line.

An exception in the middle of an import comes out of half-loaded libraries as errors of all kinds, or not at all. There
is nothing to lose there, so the process ends at once; anywhere else in the work KeyboardInterrupt is raised, as ever.
This module is imported before all others and imports none that takes time.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

EXIT_INTERRUPTED = 130
SAID = "interrupted: run the same command again to go on"

_work: list[bool] = []  # an entry while there is something to lose


def prepare() -> None:
    """Take over both signals, but for those that it was started to ignore, and let waiting threads spin briefly."""
    # threads of OpenMP that wait for each other spin, and on a machine with other work they take the time of those that
    # compute: they spin for a short while only
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == default:
            signal.signal(number, _handle)


@contextlib.contextmanager
def working() -> Iterator[None]:
    """While this lasts, a signal outside of imports raises KeyboardInterrupt, so that the work can clean up."""
    _work.append(True)
    try:
        yield
    finally:
        _work.pop()


def _handle(number: int, frame: FrameType | None) -> None:
    if _work and not _importing(frame):
        raise KeyboardInterrupt
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a stream may be in use, or closed
        sys.stdout.flush()
    os.write(2, f"{SAID}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
