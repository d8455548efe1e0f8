"""What belongs to the machine and not to the experiment. The only reader of the environment.

| variable       | meaning                                                     | default     |
|----------------|-------------------------------------------------------------|-------------|
| `ULD_DEVICE`   | `auto`, `cpu`, `cuda`, or in one process `cuda:1`           | `auto`      |
| `ULD_THREADS`  | CPU threads of torch, faiss and OpenCV                      | all cores that it may use |
| `ULD_BATCH`    | images a forward pass where no gradient is taken            | 32          |
| `ULD_NPROC`    | processes a stage that runs the diffusion network, a GPU each | 1         |
| `ULD_WORKERS`  | threads that read training batches ahead; 0: none           | 1           |
| `ULD_COMPILE`  | `1` compiles the blocks of the frozen network (a C++ compiler; on a GPU Triton too) | `0` |
| `ULD_SCRATCH`  | folder for unfinished stages, and for what memory need not hold | `.scratch` |
| `ULD_RESUME`   | `0` discards the resume state of an unfinished stage        | `1`         |
| `ULD_OFFLINE`  | `0` lets a hub id in params be downloaded                   | `1`         |
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uld.errors import ParamsError, ULDError

if TYPE_CHECKING:  # torch takes two seconds to import, and not every stage computes with it
    import torch

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

T = TypeVar("T")

_fitting: list[int] = []  # images a pass that the GPU's memory was seen to hold, where `ULD_BATCH` was too many
_locks: dict[Path, int] = {}  # open files that lock the scratch folders that this process uses


def device() -> "torch.device":
    """The torch device to compute on, from `ULD_DEVICE`; of several processes each has its own GPU.

    Raises:
        ULDError: it is none, this torch sees no GPU, or several processes would share one.
    """
    import torch

    name = os.environ.get("ULD_DEVICE", "auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ULDError(f"ULD_DEVICE={name!r} is no device: use auto, cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ULDError(f"ULD_DEVICE={name} but this torch sees no CUDA device: unset it or install a CUDA build.")
    if chosen.type == "cuda" and chosen.index is not None and max(wanted_processes(), processes()) > 1:
        raise ULDError(f"ULD_DEVICE={name} is one GPU, and ULD_NPROC wants one for each process: use ULD_DEVICE=cuda.")
    if chosen.type == "cuda" and processes() > 1:
        return torch.device("cuda", process() % max(1, torch.cuda.device_count()))
    return chosen


def _integer(name: str, default: int, least: int = 1) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or int(text) < least:
        raise ULDError(f"{name}={text!r} must be a whole number of at least {least}.")
    return int(text)


def batch_size() -> int:
    """Images a forward pass in stages without gradients; results do not depend on it beyond float rounding."""
    return min([_integer("ULD_BATCH", 32), *_fitting])


def in_batches(compute: Callable[[int, int], T], count: int) -> Iterator[tuple[int, T]]:
    """`compute(start, end)` for up to `batch_size()` of `count` images at a time; half as many if memory runs out.

    Yields:
        start and what was computed.

    Raises:
        ULDError: the GPU has no memory for a single image.
    """
    import torch

    start = 0
    while start < count:
        size = min(batch_size(), count - start)
        try:
            done = compute(start, start + size)
        except torch.OutOfMemoryError:
            done = None
        if done is not None:
            yield start, done
            start += size
            continue
        # outside the handler: while it lasts, the error holds what the failed pass had allocated
        if size == 1:
            raise ULDError(
                "the GPU has no memory for a single image: lower backbones.*.image_size, take readout.dtype bfloat16, "
                "or free memory that other processes hold."
            )
        _fitting[:] = [size // 2]
        torch.cuda.empty_cache()
        print(f"out of GPU memory with {size} images a pass: going on with {size // 2} (ULD_BATCH)", flush=True)


def batches(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows (n,) in pieces of at most `batch_size()`; one empty piece of none."""
    return np.split(rows, np.arange(batch_size(), len(rows), batch_size()))


def workers() -> int:
    """Threads that read training batches ahead; results do not depend on it."""
    return _integer("ULD_WORKERS", 1, least=0)


def compiles() -> bool:
    """Whether the frozen network is to be compiled; results do not depend on it beyond float rounding."""
    return _integer("ULD_COMPILE", 0, least=0) > 0


def threads() -> int:
    """CPU threads of the numeric libraries."""
    # a job may have some cores of a machine only
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _integer("ULD_THREADS", max(1, cores // processes()))


def wanted_processes() -> int:
    """Processes that a stage is to run in (`uld.ranks`)."""
    return _integer("ULD_NPROC", 1)


def processes() -> int:
    """Processes that this stage runs in, as torchrun says."""
    return _integer("WORLD_SIZE", 1)


def process() -> int:
    """Which of them this is."""
    return _integer("RANK", 0, least=0)


def offline() -> bool:
    """Whether a hub id may be fetched (`ULD_OFFLINE=0`) or only local files are used."""
    return os.environ.get("ULD_OFFLINE", "1") != "0"


def rng(seed: int, purpose: str, *stream: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, purpose, *stream), independent of every other stream."""
    return np.random.default_rng(_seeds(seed, purpose, stream))


def torch_rng(seed: int, purpose: str, *stream: int) -> "torch.Generator":
    """CPU torch generator of the stream (seed, purpose, *stream)."""
    import torch

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
    folder, so stale state is never picked up. Lives outside the outputs (DVC deletes those before a run). Where a
    stage runs in several processes, all must ask.

    Raises:
        ULDError: another process is at the same work.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    folder = scratch_root() / f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    _lock(folder)
    if os.environ.get("ULD_RESUME", "1") == "0" and not process():
        shutil.rmtree(folder, ignore_errors=True)
    if processes() > 1:
        import torch

        torch.distributed.barrier()  # none sees state that the first one discards
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unnamed() -> IO[bytes]:
    """An unbuffered file in the scratch folder that has no name and vanishes when it is closed, or the process ends."""
    scratch_root().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=scratch_root(), buffering=0)


def scratch_root() -> Path:
    """Where unfinished work lies: `ULD_SCRATCH`, or .scratch beside dvc.yaml."""
    return Path(os.environ.get("ULD_SCRATCH") or Path(os.environ.get("DVC_ROOT", ".")) / ".scratch")


def _lock(folder: Path) -> None:
    """Keep a scratch folder to this process (and those it started) until it ends."""
    if folder in _locks or process():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(folder.with_name(f".{folder.name}.lock"), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ULDError(f"another process is at the same work in {folder}: wait for it, or stop it.") from error
    except OSError as error:  # not every file system of a cluster has locks
        print(
            f"warning: {folder.parent} cannot be locked ({error.strerror}): see to it that no second run does the same "
            "work, or set ULD_SCRATCH to a folder on another disk.",
            flush=True,
        )
    _locks[folder] = file


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
        _limit_threads()
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
    except RuntimeError as error:
        if processes() == 1 or not _lost(error):
            raise
        print(f"error: this stage's processes have lost each other ({error}): run again to go on.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"error: {error}. Free or unlock the place and run again: finished work is kept.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _limit_threads() -> None:
    """Give torch `threads()`, whether it is there or imported later."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads())
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads())


def _lost(error: RuntimeError) -> bool:
    """Whether it says that another process of this stage cannot be reached."""
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)  # gloo has no errors of its own
