"""Moving averages of a model: the teacher of BYOL and Mean Teacher, the weights of a diffusion model that are kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ema:
    """Exponential moving average: `target` = d * target + (1 - d) * source after each step.

    The two have the same parameters. Whole numbers (counters of BatchNorm) are copied.
    """

    target: nn.Module
    source: nn.Module
    decay: float | Callable[[int], float]  # d in [0, 1], or global step -> d
    buffers: bool = True  # False: the target keeps buffers of its own (BYOL: it normalises by its own batches)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the source after the global step `step`."""
        decay = self.decay(step) if callable(self.decay) else self.decay
        (averages, values), (copies, originals) = self._pairs
        torch._foreach_lerp_(averages, values, 1 - decay)
        for copy, original in zip(copies, originals, strict=True):
            copy.copy_(original)

    @cached_property
    def _pairs(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Target and source tensors: those that are averaged, those that are copied."""
        mine, theirs = self._tensors(self.target), self._tensors(self.source)
        if mine.keys() != theirs.keys():
            raise ValueError(f"target and source differ in {sorted(mine.keys() ^ theirs.keys())[:5]}")
        pairs = [(mine[name].detach(), theirs[name].detach()) for name in mine]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        rest = [pair for pair in pairs if not pair[0].is_floating_point()]
        return [([a for a, _ in some], [b for _, b in some]) for some in (floating, rest)]

    def _tensors(self, module: nn.Module) -> dict[str, Tensor]:
        return module.state_dict() if self.buffers else dict(module.named_parameters())
