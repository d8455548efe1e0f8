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
| `ULD_IMAGE_MB` | megabytes that an image file may have, as a file and decoded | 512        |
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from uld.base.errors import ULDError

if TYPE_CHECKING:  # torch takes two seconds to import, and not every stage computes with it
    import torch

T = TypeVar("T")
DIGITS = 18  # of a number in the environment: all such numbers are integers of 64 bits
_fitting: list[int] = []  # images a pass that the GPU's memory was seen to hold, where `ULD_BATCH` was too many


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
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS) or int(text) < least:
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


def image_bytes() -> int:
    """Bytes that an image may have, as a file and decoded; a larger one is refused before it is decoded."""
    return _integer("ULD_IMAGE_MB", 512) * 10**6


def compiles() -> bool:
    """Whether the frozen network is to be compiled; results do not depend on it beyond float rounding."""
    return _integer("ULD_COMPILE", 0, least=0) > 0


def threads() -> int:
    """CPU threads of the numeric libraries."""
    # a job may have some cores of a machine only
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _integer("ULD_THREADS", max(1, cores // processes()))


def wanted_processes() -> int:
    """Processes that a stage is to run in (`uld.base.ranks`)."""
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
