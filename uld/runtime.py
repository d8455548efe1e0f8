"""What belongs to the machine and not to the experiment. The only reader of the environment.

| variable       | meaning                                                     | default     |
|----------------|-------------------------------------------------------------|-------------|
| `ULD_DEVICE`   | `auto`, `cpu`, `cuda` or `cuda:1`                           | `auto`      |
| `ULD_THREADS`  | CPU threads of torch, faiss and OpenCV                      | all cores   |
| `ULD_BATCH`    | images a forward pass where no gradient is taken            | 32          |
| `ULD_WORKERS`  | threads that read training batches ahead; 0: none           | 1           |
| `ULD_SCRATCH`  | folder for the resume state of unfinished stages            | `.scratch`  |
| `ULD_RESUME`   | `0` discards the resume state of an unfinished stage        | `1`         |
| `ULD_OFFLINE`  | `0` lets a hub id in params be downloaded                   | `1`         |
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from uld.errors import ParamsError, ULDError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def device() -> torch.device:
    """The torch device to compute on, from `ULD_DEVICE`."""
    name = os.environ.get("ULD_DEVICE", "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ULDError(f"ULD_DEVICE={name!r} is no device: use auto, cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ULDError(f"ULD_DEVICE={name} but this torch sees no CUDA device: unset it or install a CUDA build.")
    return chosen


def _integer(name: str, default: int, least: int = 1) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < least:
        raise ULDError(f"{name}={text!r} must be a whole number of at least {least}.")
    return int(text)


def batch_size() -> int:
    """Images a forward pass in stages without gradients; results do not depend on it beyond float rounding."""
    return _integer("ULD_BATCH", 32)


def batches(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows (n,) in pieces of at most `batch_size()`; one empty piece of none."""
    return np.split(rows, np.arange(batch_size(), len(rows), batch_size()))


def workers() -> int:
    """Threads that read training batches ahead; results do not depend on it."""
    return _integer("ULD_WORKERS", 1, least=0)


def threads() -> int:
    """CPU threads of the numeric libraries."""
    return _integer("ULD_THREADS", os.cpu_count() or 1)


def offline() -> bool:
    """Whether a hub id may be fetched (`ULD_OFFLINE=0`) or only local files are used."""
    return os.environ.get("ULD_OFFLINE", "1") != "0"


def rng(seed: int, purpose: str, *stream: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, purpose, *stream), independent of every other stream."""
    return np.random.default_rng(_seeds(seed, purpose, stream))


def torch_rng(seed: int, purpose: str, *stream: int) -> torch.Generator:
    """CPU torch generator of the stream (seed, purpose, *stream)."""
    words = _seeds(seed, purpose, stream).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def _seeds(seed: int, purpose: str, stream: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0:
        raise ParamsError(f"params.yaml: seed: must be 0 or more, not {seed}.")
    # as spawn key: in the entropy itself, trailing zeros would not count and the streams () and (0,) be the same
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=stream)


def scratch(stage: str, **identity: Any) -> Path:
    """Folder for the resume state of an unfinished stage, keyed by everything that defines its result.

    `identity` must be JSON-serialisable: declared params and fingerprints of the inputs. Another identity gets another
    folder, so stale state is never picked up. Lives outside the outputs (DVC deletes those before a run).
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    root = Path(os.environ.get("ULD_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")
    folder = root / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if os.environ.get("ULD_RESUME", "1") == "0":
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
        torch.set_num_threads(threads())
        main()
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except ULDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"error: {error}. Free or unlock the place and run again: finished work is kept.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
