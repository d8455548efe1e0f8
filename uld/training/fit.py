"""The one training loop. A step depends on nothing but the state of the loop, which is kept to resume from."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from uld.artifacts.files import checksum
from uld.base import progress, ranks, runtime, stop
from uld.base.errors import ULDError
from uld.base.writing import write
from uld.training.ema import Ema

KEEP_EVERY = 50  # steps between two saved states, and between two printed lines

CHECKSUM = 8  # bytes at the beginning of the file of the state
STATE = {"model", "optimisers", "targets", "watch", "lines", "ended"}  # what its file holds

Figures = dict[str, Tensor]


class Watch(Protocol):
    """Looks at the model from time to time, and may end the training; what it remembers is part of the state."""

    every: int  # steps between two looks; it also looks after the last step

    def after(self, done: int) -> bool:
        """Look at the model after `done` steps; True ends the training. It must not change what the steps use."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers: tensors, numbers and texts, in dicts and lists."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember that again; the tensors come on the CPU."""


def fit(
    model: nn.Module,
    optimisers: Sequence[Optimizer],
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
    state: Path,
    name: str,
    clip: float | None = 1.0,
    *,
    first_step: int = 0,
    schedule: Callable[[int], float] | None = None,
    targets: Sequence[Ema] = (),
    carried: Mapping[str, Tensor] | None = None,
    watch: Watch | None = None,
    keep_state: bool = False,
    remedy: str = "lower its learning rate",
) -> pd.DataFrame:
    """Minimise; ends in the same bytes whether or not the run was killed on the way.

    Args:
        model: all that learns. It is in training mode during the steps, in evaluation mode afterwards.
        optimisers: each steps once a step, on the gradient of the one loss. They may have parameter groups. A parameter
            that the loss does not reach stays as it is.
        steps: how many.
        step: number in [0, steps) -> loss and figures to follow, the same in all processes (`uld.base.ranks`). All
            randomness comes from the number.
        state: file of the resume state, deleted at the end.
        name: of the run, for messages.
        clip: largest norm of the gradient of the whole model; None: the gradient stays as it is.
        first_step: global steps before this call, in earlier rounds.
        schedule: global step -> factor of the learning rate of each parameter group; None: the rates are constant.
        targets: moving averages that follow after each step.
        carried: `optimiser_state` at the end of an earlier call, to begin with; None: the optimisers begin anew.
        watch: looks at the model from time to time, and may end the training; None: all steps are done.
        keep_state: the file stays at the end, and the caller deletes it when the result is written. Another call with
            it does no step.
        remedy: what to do where the loss is not finite.

    Returns:
        A line a step: step, loss and the figures.

    Raises:
        stop.Interrupted: asked to stop; the state is kept.
        ULDError: the loss or its gradient is not finite, or `carried` belongs to other optimisers.
    """
    loop = _Loop(model, optimisers, targets, watch, name, steps)
    rates = [group["lr"] for group in loop.groups]
    if carried is not None:
        _load(optimisers, carried, name)
    loop.restore(state)
    ranks.wait()  # none goes on, and comes to delete or replace the state, before all have read it
    for one in (model, *(ema.target for ema in targets)):
        ranks.align(one)
    model.train()
    with stop.interruptible() as interrupt, progress.bar(name, steps, loop.done) as advance:
        while not loop.finished:
            number = loop.done
            if schedule is not None:
                loop.rate(rates, schedule(first_step + number))
            loop.descend(*step(number), clip, remedy)
            for ema in targets:
                ema.update(first_step + number)
            seen, stopping = loop.look(), ranks.anyone(bool(interrupt))
            if (seen or loop.done % KEEP_EVERY == 0 or stopping) and not runtime.process():
                loop.keep(state)
            advance(1)
            if stopping:
                raise stop.Interrupted(f"{name} saved at step {loop.done} of {steps}; run again to go on.")
    loop.rate(rates, 1.0)
    model.eval()
    if not (runtime.process() or keep_state):
        state.unlink(missing_ok=True)
    return pd.DataFrame(loop.lines) if loop.lines else pd.DataFrame(columns=["step", "loss"])


@dataclass
class _Loop:
    """All that the next step depends on."""

    model: nn.Module
    optimisers: Sequence[Optimizer]
    targets: Sequence[Ema]
    watch: Watch | None
    name: str
    steps: int
    lines: list[dict[str, float]] = field(default_factory=list)
    ended: bool = False  # by `watch`

    @property
    def done(self) -> int:
        return len(self.lines)

    @property
    def finished(self) -> bool:
        return self.ended or self.done >= self.steps

    @property
    def groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def rate(self, rates: list[float], factor: float) -> None:
        for group, rate in zip(self.groups, rates, strict=True):
            group["lr"] = rate * factor

    def descend(self, loss: Tensor, figures: Figures, clip: float | None, remedy: str) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        ranks.average(self.model)
        self._check(loss, self._clipped(clip), figures, remedy)
        for optimiser in self.optimisers:
            optimiser.step()
        told = {key: value.item() for key, value in figures.items()}
        self.lines.append({"step": self.done, "loss": loss.item()} | told)

    def _clipped(self, clip: float | None) -> Tensor:
        """Shorten the gradient to `clip`; the norm that it had."""
        if clip is None:
            return nn.utils.get_total_norm(one.grad for one in self.model.parameters() if one.grad is not None)
        return nn.utils.clip_grad_norm_(self.model.parameters(), clip)

    def _check(self, loss: Tensor, norm: Tensor, figures: Figures, remedy: str) -> None:
        if not (loss + norm).isfinite():
            told = "".join(f"; {key} {value:.4g}" for key, value in figures.items())
            raise ULDError(
                f"{self.name}: at step {self.done} the loss is {loss.item():.4g} and the gradient norm "
                f"{norm.item():.4g}{told}: {remedy}."
            )

    def look(self) -> bool:
        """Whether `watch` looked at the model; it may have ended the training."""
        if self.watch is None or (self.done % self.watch.every and self.done < self.steps):
            return False
        self.ended = ranks.anyone(self.watch.after(self.done))
        return True

    def keep(self, path: Path) -> None:
        """Write the state and print a line."""
        recent = pd.DataFrame(self.lines[-KEEP_EVERY:]).drop(columns="step").mean()
        buffer = io.BytesIO()  # torch hides what is wrong with a file from the caller
        torch.save(self._state(), buffer)
        write(path, checksum(buffer.getvalue()).encode() + buffer.getvalue())
        told = ", ".join(f"{key} {value:.4g}" for key, value in recent.items())
        print(f"{self.name} step {self.done} of {self.steps}: {told}", flush=True)

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimisers": [one.state_dict() for one in self.optimisers],
            "targets": [one.target.state_dict() for one in self.targets],
            "watch": None if self.watch is None else self.watch.state_dict(),
            "lines": self.lines,
            "ended": self.ended,
        }

    def restore(self, path: Path) -> None:
        """Take up the state, if there is one that is whole and of this version."""
        if not path.is_file():
            return
        try:
            state = self._read(path)
        except ValueError as error:
            aside = path.with_name(f"{path.name}.aside")
            print(f"warning: {self.name} begins anew: {path} {error}. It is kept as {aside}.", flush=True)
            if not runtime.process():
                os.replace(path, aside)
            return
        self.model.load_state_dict(state["model"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        for ema, kept in zip(self.targets, state["targets"], strict=True):
            ema.target.load_state_dict(kept)
        if self.watch is not None:
            self.watch.load_state_dict(state["watch"])
        self.lines, self.ended = state["lines"], state["ended"]

    def _read(self, path: Path) -> dict[str, Any]:
        """The kept state.

        Raises:
            ValueError: why it cannot be taken up.
        """
        data = path.read_bytes()
        head, rest = data[:CHECKSUM], data[CHECKSUM:]
        if head != checksum(rest).encode():
            raise ValueError("is empty, cut off or damaged")
        state: dict[str, Any] = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
        if set(state) != STATE or _outline(state) != _outline(self._state()):
            raise ValueError("was written by another version of uld")
        return state


def _outline(state: dict[str, Any]) -> list[Any]:
    """Names and shapes of the weights in a state."""
    return [{name: value.shape for name, value in one.items()} for one in (state["model"], *state["targets"])]


# --- what optimisers remember, from one round to the next ---


def optimiser_state(optimisers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Moments and counters of all optimisers, for `fit(carried=...)`; no learning rates, which each round sets itself.

    Returns:
        "optimiser.parameter.moment" -> tensor on the CPU, in a fixed order: safetensors makes the same bytes of it.

    Raises:
        ULDError: an optimiser remembers something that is no tensor.
    """
    found: dict[str, Tensor] = {}
    for place, optimiser in enumerate(optimisers):
        for parameter, kept in sorted(optimiser.state_dict()["state"].items()):
            for key, value in sorted(kept.items()):
                if value is None:  # a moment that is not in use
                    continue
                if not isinstance(value, Tensor):
                    raise ULDError(f"{type(optimiser).__name__} keeps {key}, which is no tensor: it cannot be carried.")
                found[f"{place}.{parameter}.{key}"] = value.detach().cpu().clone()
    return found


def misfit(optimisers: Sequence[Optimizer], carried: Mapping[str, Tensor]) -> str | None:
    """The first moment of `optimiser_state` that fits no parameter of these optimisers; both go by their order."""
    shapes = [[one.shape for group in some.param_groups for one in group["params"]] for some in optimisers]
    for key, value in carried.items():
        place, parameter, _ = key.split(".", 2)
        known = shapes[int(place)] if int(place) < len(shapes) else []
        if int(parameter) >= len(known) or (value.ndim and value.shape != known[int(parameter)]):
            return key
    return None


def _load(optimisers: Sequence[Optimizer], carried: Mapping[str, Tensor], name: str) -> None:
    """Give optimisers what they remember; parameters are matched by their order.

    Raises:
        ULDError: the tensors do not fit the parameters.
    """
    if (key := misfit(optimisers, carried)) is not None:
        raise ULDError(
            f"{name}: the optimiser state of the round before does not fit the model ({key} has the shape "
            f"{tuple(carried[key].shape)}): let the optimiser begin anew."
        )
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimisers]
    for key, value in carried.items():
        place, parameter, moment = key.split(".", 2)
        states[int(place)].setdefault(int(parameter), {})[moment] = value.clone()  # the optimiser writes into it
    for optimiser, state in zip(optimisers, states, strict=True):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
