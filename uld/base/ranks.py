"""A stage in several processes, one a GPU: with `ULD_NPROC` a stage that runs the diffusion network starts anew as that
many processes under `torchrun`.

What is divided depends on the stage. The store of features is filled shard by shard, each process its own (`divided`).
Training runs in all (`divided`): each draws the same batch, puts its `share` of it through the networks, gets those of
the others (`whole`), takes the loss of the whole batch, and steps by the mean of all gradients (`average`). Every other
stage runs in the first process as ever, which alone draws and writes; whenever it reads a store of latents the other
ones run their share of that batch (`led`, `spread`). Results are those of one process up to the rounding of smaller
batches.
"""

import contextlib
import datetime
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from uld.base import runtime, stop
from uld.base.errors import ULDError

Tensors = dict[str, torch.Tensor]

SAVING = 120  # seconds that processes which are asked to stop have until torchrun kills them

_PATIENCE = datetime.timedelta(days=7)  # a served process may wait as long as the first one trains

_served: dict[str, Callable[[Any], Tensors]] = {}
_broken: list[str] = []  # work that was asked for and not yet received: after an error the others wait in vain
_leading: list[bool] = []  # of this process, while others serve it


def divided(main: Callable[[], None]) -> None:
    """Run a stage that divides its work itself: `main` in every process."""
    stop.run(_relaunch)
    with _group():
        stop.run(main)


def led(main: Callable[[], None]) -> None:
    """Run a stage in the first process, whose calls of `spread` the others serve."""
    stop.run(_relaunch)
    with _group():
        if runtime.process():
            stop.run(_serve)
            return
        _leading.append(runtime.processes() > 1)
        try:
            stop.run(main)
        finally:
            if _leading.pop() and not _broken:
                stop.run(lambda: _tell(None))


def wait() -> None:
    """Go on when all processes are here."""
    if runtime.processes() > 1:
        dist.barrier()


# --- training: the same batch everywhere, each process its share of the work ---


def share(count: int) -> NDArray[np.int64]:
    """Which of `count` items this process takes: as many as any other; the last item again where they run out."""
    return shares(count)[runtime.process()]


def shares(count: int) -> NDArray[np.int64]:
    """(processes, n): the `share` of each."""
    size = -(-count // runtime.processes())
    return np.minimum(np.arange(size * runtime.processes()), count - 1).reshape(-1, size)


def whole(part: torch.Tensor, count: int) -> torch.Tensor:
    """(count, ...): what all processes have made of their shares; the gradient of each goes back to where it was made.

    Args:
        part: (n, ...) of this process's share.
    """
    return part if runtime.processes() == 1 else _Whole.apply(part)[:count]


class _Whole(torch.autograd.Function):
    """The parts of all processes, one after the other."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        part = part.contiguous()  # bytes are exchanged: the buffers must be laid out as they are
        parts = [torch.empty_like(part) for _ in range(runtime.processes())]
        dist.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # only this process has the gradient through its share, and `average` divides it by their number
        return gradient.chunk(runtime.processes())[runtime.process()] * runtime.processes()


def average(model: nn.Module) -> None:
    """Replace each gradient by its mean over the processes."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    if runtime.processes() == 1 or not gradients:
        return
    flat = torch.cat([one.flatten() for one in gradients])
    dist.all_reduce(flat)
    flat /= runtime.processes()
    for one, mean in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        one.copy_(mean.view_as(one))


def align(model: nn.Module) -> None:
    """Give every process the weights of the first."""
    if runtime.processes() > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, 0)


def anyone(said: bool) -> bool:
    """Whether any process says so."""
    if runtime.processes() == 1:
        return said
    box = torch.tensor(int(said), device=runtime.device())
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return bool(box)


# --- elsewhere: the first process, whom the others serve ---


def leads() -> bool:
    """Whether other processes wait for what this one asks by `spread`."""
    return any(_leading)


def offer(module: str, compute: Callable[[Any], Tensors]) -> None:
    """Say what `spread` may ask of a process: a module does so when it is imported, under its own name."""
    _served[module] = compute


def spread(module: str, tasks: list[Any]) -> list[Tensors]:
    """The results of one task a process, in order; all have the same shapes. Only the first process may call it.

    Args:
        module: name of the one that offers the work.
        tasks: its arguments.
    """
    _broken.append(module)
    _tell((module, tasks))
    found: dict[str, list[torch.Tensor]] = {}
    for name, value in _served[module](tasks[0]).items():
        own = value.contiguous()  # and so are the buffers
        found[name] = [torch.empty_like(own) for _ in tasks]
        dist.gather(own, found[name])
    _broken.clear()
    return [{name: values[i] for name, values in found.items()} for i in range(len(tasks))]


def _serve() -> None:
    """Do what the first process asks, until it asks for nothing."""
    with stop.interruptible():  # it is the first process that stops at a safe point
        while (asked := _told()) is not None:
            module, tasks = asked
            if module not in _served:  # the first process alone has opened what needs it
                importlib.import_module(module)
            for value in _served[module](tasks[runtime.process()]).values():
                dist.gather(value.contiguous())


def _tell(message: object) -> None:
    dist.broadcast_object_list([message], device=torch.device("cpu"))


def _told() -> Any:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


@contextlib.contextmanager
def _group() -> Iterator[None]:
    """Where there are several processes, let them speak with each other."""
    if runtime.processes() > 1:
        stop.run(_join)
    yield
    if runtime.processes() > 1:
        dist.destroy_process_group()


def _join() -> None:
    device = runtime.device()
    if device.type == "cuda":
        if runtime.processes() > torch.cuda.device_count():
            raise ULDError(f"ULD_NPROC={runtime.processes()} but there are {torch.cuda.device_count()} GPUs.")
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)


def _relaunch() -> None:
    """Become `torchrun` of this stage, if several processes are wanted and this is none of them.

    Raises:
        ULDError: there is no device for them.
    """
    count = runtime.wanted_processes()
    spec = sys.modules["__main__"].__spec__
    if count == 1 or runtime.processes() > 1:
        return
    runtime.device()  # one message, and not one of each process
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING))
    sys.stdout.flush()
    this = [sys.argv[0]] if spec is None else ["-m", spec.name]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [sys.executable, *torchrun, *this, *sys.argv[1:]])
