"""The loop of every stage that trains heads: a step depends on nothing but the state, which is kept to resume from."""

import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from uld.artifacts.files import atomic
from uld.base import ranks, runtime, stop
from uld.base.errors import ULDError

KEEP_EVERY = 50  # steps between two saved states

Figures = dict[str, Tensor]


def optimise(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
    state: Path,
    name: str,
    clip: float = 1.0,
) -> pd.DataFrame:
    """Minimise; ends in the same bytes whether or not the run was killed on the way.

    Args:
        model: in training mode during the steps, in evaluation mode afterwards.
        step: number -> loss and figures to follow, the same in all processes (`uld.base.ranks`). All randomness comes
            from the number.
        state: file of the resume state, deleted at the end.
        name: of the run, for messages.
        clip: largest norm of the gradient.

    Returns:
        A line a step: step, loss and the figures.

    Raises:
        runtime.Interrupted: asked to stop; the state is kept.
        ULDError: the loss or its gradient is not finite.
    """
    first, lines = _restore(state, model, optimiser)
    ranks.wait()  # none goes on, and comes to delete or replace the state, before all have read it
    ranks.align(model)
    model.train()
    with stop.interruptible() as interrupt:
        for number in range(first, steps):
            loss, figures = step(number)
            optimiser.zero_grad()
            loss.backward()
            ranks.average(model)
            slope = nn.utils.clip_grad_norm_(model.parameters(), clip)
            if not (loss + slope).isfinite():
                told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                raise ULDError(
                    f"{name}: the loss is {loss.item()} and its gradient {slope.item()} at step {number} ({told}): "
                    f"lower its learning rate."
                )
            optimiser.step()
            lines.append({"step": number, "loss": loss.item()} | {key: value.item() for key, value in figures.items()})
            stopping = ranks.anyone(bool(interrupt))
            if ((number + 1) % KEEP_EVERY == 0 or stopping) and not runtime.process():
                _keep(state, model, optimiser, lines)
                print(f"{name} step {number + 1} of {steps}: {_told(lines)}", flush=True)
            if stopping:
                raise stop.Interrupted(f"{name} saved at step {number + 1} of {steps}; run again to go on.")
    model.eval()
    if not runtime.process():
        state.unlink(missing_ok=True)
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=["step", "loss"])


def _told(lines: list[dict[str, float]]) -> str:
    recent = pd.DataFrame(lines[-KEEP_EVERY:]).drop(columns="step").mean()
    return ", ".join(f"{key} {value:.4g}" for key, value in recent.items())


def _keep(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, lines: list[dict[str, float]]) -> None:
    buffer = io.BytesIO()  # torch hides what is wrong with a file from the caller
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "lines": lines}, buffer)
    with atomic(path) as part:
        part.write_bytes(buffer.getbuffer())


def _restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, list[dict[str, float]]]:
    if not path.is_file():
        return 0, []
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return len(state["lines"]), state["lines"]


def fit(
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
    state: Path,
    name: str,
    clip: float = 1.0,
) -> pd.DataFrame:
    """Shim."""
    return optimise(model, optimisers[0], steps, step, state, name, clip)
