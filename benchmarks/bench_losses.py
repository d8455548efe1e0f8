"""All-pairs matching loss, forward and backward in chunks of rows, against the dense form: time and peak memory."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from timing import Ways, measure, report, run, same
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from uld.base import runtime
from uld.losses.silk import all_pairs, matching_nll

IMAGES, SIZE, TEMPERATURE = 6, 64, 0.05


def data(grid: int) -> tuple[Tensor, ...]:
    """Descriptors of two views (B, G * G, D), where they are valid, and true partners of the valid ones."""
    rng = torch.Generator().manual_seed(0)
    cells = grid * grid
    a, b = F.normalize(torch.randn(2, IMAGES, cells, SIZE, generator=rng), dim=3)
    valid = torch.rand(IMAGES, cells, generator=rng) < 0.8
    shuffle = torch.randperm(cells, generator=rng)
    partner = shuffle.argsort().expand(IMAGES, cells).masked_fill(~valid, -1)
    return tuple(value.to(runtime.device()) for value in (a, b, valid, valid[:, shuffle], partner))


def loss(a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor, partner: Tensor) -> Tensor:
    return matching_nll(a, b, all_pairs(a, b, valid_a, valid_b, TEMPERATURE), partner, TEMPERATURE)


def dense(a: Tensor, b: Tensor, valid_a: Tensor, valid_b: Tensor, partner: Tensor) -> Tensor:
    """The same from the matrix of all logits."""
    logits = (a @ b.transpose(1, 2) / TEMPERATURE).masked_fill(~(valid_a[:, :, None] & valid_b[:, None]), -torch.inf)
    image, row = (partner >= 0).nonzero(as_tuple=True)
    column = partner[image, row]
    true = logits[image, row, column]
    return (logits.logsumexp(2)[image, row] + logits.logsumexp(1)[image, column] - 2 * true).mean()


def gradients(function: Callable[..., Tensor], a: Tensor, b: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """The loss and its gradients with respect to both sets."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = function(a, b, *rest)
    return value.detach(), *torch.autograd.grad(value, (a, b))


def peak(way: Callable[[], Any]) -> float:
    """Most memory that torch holds at a time during a run, beyond what it held before, MB."""
    if runtime.device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        way()
    steps = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(steps, key=lambda event: event.start_ns()))) / 1e6


def main(small: bool) -> None:
    repeats = 1 if small else 3
    for grid in (8, 16) if small else (32, 64):
        inputs = data(grid)
        ways: Ways = {"uld": lambda x=inputs: gradients(loss, *x), "dense": lambda x=inputs: gradients(dense, *x)}
        topic = f"all-pairs loss and gradients, B={IMAGES}, D={SIZE}, G={grid}"
        memory = {name: peak(way) for name, way in ways.items()}
        seconds, found = measure(ways, repeats)
        for one, other in zip(*found.values(), strict=True):
            same(topic, one.cpu(), other.cpu(), rtol=1e-4, atol=1e-6)
        report(topic, seconds, IMAGES, "pairs", "dense")
        for name, value in memory.items():
            ratio = "" if name == "dense" else f"   RATIO {memory['dense'] / value:.2f} x against dense"
            print(f"{topic}: {name}: peak memory {value:.4g} MB{ratio}")


if __name__ == "__main__":
    run(main)
