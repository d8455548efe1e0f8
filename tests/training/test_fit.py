"""The training loop ends in the same bytes however often it was stopped on the way."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from uld.base import stop
from uld.base.errors import ULDError
from uld.training import fit as loop
from uld.training.fit import optimise

STEPS = 9
START = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.7, -0.4]])


class Task:
    """A regression whose data depend on nothing but the step; `at` is called with each number before its loss."""

    def __init__(self, at: Callable[[int], None] = lambda number: None, steps: int = STEPS) -> None:
        self.model = nn.Linear(3, 2)
        with torch.no_grad():
            self.model.weight.copy_(START)
            self.model.bias.zero_()
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.seen: list[int] = []
        self._at, self._steps = at, steps

    def run(self, state: Path, **changes: Any) -> pd.DataFrame:
        return optimise(self.model, self.optimiser, self._steps, self._step, state, "round one", **changes)

    def weights(self) -> Tensor:
        return torch.cat([value.detach().flatten() for value in self.model.parameters()])

    def _step(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.model.training
        self.seen.append(number)
        self._at(number)
        rng = torch.Generator().manual_seed(number)
        x = torch.randn(8, 3, generator=rng)
        error = self.model(x) - x[:, :2]
        return (error**2).mean(), {"off": error.detach().abs().max(), "mean": x.mean()}


def ask(number: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Task, pd.DataFrame]:
    """A run that nothing stopped."""
    task = Task()
    return task, task.run(tmp_path / "whole.pt")


@pytest.mark.parametrize("keep", [1, 4, 50])
@pytest.mark.parametrize("stop", range(STEPS))
def test_stopped_at_any_step_and_resumed(
    whole: tuple[Task, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, keep: int
) -> None:
    monkeypatch.setattr(loop, "KEEP_EVERY", keep)
    state = tmp_path / "state.pt"
    first = Task(lambda number: ask(number) if number == stop else None)
    with pytest.raises(stop.Interrupted, match=f"^round one saved at step {stop + 1} of 9; run again to go on"):
        first.run(state)
    assert first.seen == list(range(stop + 1)) and state.is_file()
    second = Task()
    history = second.run(state)
    assert second.seen == list(range(stop + 1, STEPS))
    assert torch.equal(second.weights(), whole[0].weights())
    pd.testing.assert_frame_equal(history, whole[1], check_exact=True)
    assert not state.exists() and not second.model.training


@pytest.mark.parametrize("crash", [3, 4, 7, 8])
def test_killed_without_warning(
    whole: tuple[Task, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: int
) -> None:
    monkeypatch.setattr(loop, "KEEP_EVERY", 4)

    def die(number: int) -> None:
        if number == crash:
            raise KeyboardInterrupt

    first, second = Task(die), Task()
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "state.pt")
    history = second.run(tmp_path / "state.pt")
    assert second.seen == list(range(crash // 4 * 4, STEPS))
    assert torch.equal(second.weights(), whole[0].weights())
    pd.testing.assert_frame_equal(history, whole[1], check_exact=True)


def test_stopped_time_and_again(whole: tuple[Task, pd.DataFrame], tmp_path: Path) -> None:
    for _ in range(STEPS):
        with pytest.raises(stop.Interrupted):
            Task(ask).run(tmp_path / "state.pt")
    last = Task()
    pd.testing.assert_frame_equal(last.run(tmp_path / "state.pt"), whole[1], check_exact=True)
    assert not last.seen and torch.equal(last.weights(), whole[0].weights())


def test_a_line_a_step(whole: tuple[Task, pd.DataFrame]) -> None:
    task, history = whole
    assert history.columns.tolist() == ["step", "loss", "off", "mean"]
    assert history["step"].tolist() == task.seen == list(range(STEPS))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert not task.model.training


def test_no_steps(tmp_path: Path) -> None:
    task = Task(steps=0)
    history = task.run(tmp_path / "state.pt")
    assert history.columns.tolist() == ["step", "loss"] and not len(history)  # a table that can be read back
    assert not task.seen and not task.model.training
    assert torch.equal(task.weights(), torch.cat([START.flatten(), torch.zeros(2)]))


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """With plain descent at rate 1, a step is the gradient: as long as the clip, in the direction of the full one."""

    def moved(clip: float) -> Tensor:
        task = Task(steps=1)
        task.optimiser = torch.optim.SGD(task.model.parameters(), lr=1.0)
        before = task.weights()
        task.run(tmp_path / "state.pt", clip=clip)
        return before - task.weights()

    full = moved(1e6)
    assert full.norm() > 0.5
    torch.testing.assert_close(moved(0.25), full * 0.25 / full.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved(10.0), full)  # shorter ones stay as they are


@pytest.mark.parametrize(("at", "value"), [(0, math.nan), (5, math.inf), (8, math.nan)])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_finite(tmp_path: Path, what: str, at: int, value: float) -> None:
    task = Task()

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        weight = task.model.weight
        if number == at:
            weight = weight * value if what == "loss" else (weight - weight.detach()).abs().sqrt()  # 0, steep
        return weight.sum(), {"nll": torch.tensor(0.125)}

    told = rf"^round one: the loss is .+ and its gradient (nan|inf) at step {at} \(nll 0.125\): lower its learning rate"
    with pytest.raises(ULDError, match=told):
        optimise(task.model, task.optimiser, STEPS, step, tmp_path / "state.pt", "round one")
    assert task.weights().isfinite().all()  # it never reached them


def test_no_process_goes_on_before_all_have_read_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where no step is left, and nothing but the end of the loop, which deletes the state."""
    state, seen = tmp_path / "state.pt", []
    with pytest.raises(stop.Interrupted):
        Task(lambda number: ask(number) if number == STEPS - 1 else None).run(state)
    monkeypatch.setattr(loop.ranks, "wait", lambda: seen.append(state.is_file()))
    assert len(Task().run(state)) == STEPS
    assert seen == [True] and not state.exists()


def test_signals_are_as_before(whole: tuple[Task, pd.DataFrame], tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stop.Interrupted):
        Task(ask).run(tmp_path / "state.pt")
    assert signal.getsignal(signal.SIGTERM) is handler
