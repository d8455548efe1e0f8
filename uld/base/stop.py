"""How a stage or command ends: signals as a flag that loops check, errors as one message and an exit code."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from uld.base import early, runtime, shown
from uld.base.early import EXIT_INTERRUPTED
from uld.base.errors import ULDError

EXIT_USER_ERROR = 2
# what a disk or its rights are to blame for
OF_THE_PLACE = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS")}


class Interrupt:
    """Set by the first SIGINT or SIGTERM; the second one aborts at once."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping at the next safe point; press again to abort", file=sys.stderr, flush=True)


class Interrupted(ULDError):
    """The stage saved its state and stopped because it was asked to."""


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Turn the first SIGINT/SIGTERM into a flag that a loop checks at its safe points."""
    interrupt = Interrupt()
    previous = {number: signal.signal(number, interrupt._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(main: Callable[[], None]) -> None:
    """Run a stage or command: a clear message and an exit code in place of a traceback for what a user can cause."""
    try:
        with early.working():
            _limit_threads()
            main()
    except Interrupted as error:
        _end(f"interrupted: {error}", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _end(early.SAID, EXIT_INTERRUPTED)
    except ULDError as error:
        _end(f"error: {error}")
    except RuntimeError as error:
        if runtime.processes() == 1 or not _lost(error):
            raise
        _end(f"error: this stage's processes have lost each other ({error}): run again to go on.")
    except OSError as error:
        if error.errno not in OF_THE_PLACE:
            raise
        _end(f"error: {error}. Free or unlock the place and run again: finished work is kept.")


def _end(said: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    print(shown.message(said), file=sys.stderr)
    sys.exit(code)


def _limit_threads() -> None:
    """Give torch `runtime.threads()`, whether it is there or imported later."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(runtime.threads())
    else:
        os.environ["OMP_NUM_THREADS"] = str(runtime.threads())


def _lost(error: RuntimeError) -> bool:
    """Whether it says that another process of this stage cannot be reached."""
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)  # gloo has no errors of its own
