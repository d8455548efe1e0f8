"""The training loop does what a plain loop does, and ends in the same bytes however often it was stopped on the way."""

import copy
import io
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from uld.artifacts.files import checksum
from uld.base import stop
from uld.base.errors import ULDError
from uld.training import fit as loop
from uld.training.ema import Ema
from uld.training.fit import fit, optimiser_state

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
        return fit(self.model, [self.optimiser], self._steps, self._step, state, "round one", **changes)

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
@pytest.mark.parametrize("at", range(STEPS))
def test_stopped_at_any_step_and_resumed(
    whole: tuple[Task, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, keep: int
) -> None:
    monkeypatch.setattr(loop, "KEEP_EVERY", keep)
    state = tmp_path / "state.pt"
    first = Task(lambda number: ask(number) if number == at else None)
    with pytest.raises(stop.Interrupted, match=f"^round one saved at step {at + 1} of 9; run again to go on"):
        first.run(state)
    assert first.seen == list(range(at + 1)) and state.is_file()
    second = Task()
    history = second.run(state)
    assert second.seen == list(range(at + 1, STEPS))
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

    told = (
        rf"^round one: at step {at} the loss is .+ and the gradient norm (nan|inf); nll 0.125: lower its learning rate"
    )
    with pytest.raises(ULDError, match=told):
        fit(task.model, [task.optimiser], STEPS, step, tmp_path / "state.pt", "round one")
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


# --- several optimisers, a schedule, an average, a watch ---


def schedule(number: int) -> float:
    """Up over four steps, then down."""
    return min(1.0, (number + 1) / 4) * 0.9**number


def decay(number: int) -> float:
    return min(0.9, (number + 1) / (number + 3))


class Look:
    """Takes an error every two steps, keeps a copy of the best average, and ends the training after `patience`."""

    every = 2

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.errors: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.looks: list[int] = []  # not remembered

    def after(self, done: int) -> bool:
        error = float(abs(self.model[0].weight.detach().norm() - 0.9))
        if error < min(self.errors, default=math.inf):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.errors.append(error)
        self.looks.append(done)
        return len(self.errors) >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"errors": self.errors, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.errors, self.best = state["errors"], state["best"]


class Rich:
    """A network with BatchNorm under Adam in two groups and plain descent with momentum, with all extras."""

    def __init__(self, patience: int = 99, first: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
        self.average = copy.deepcopy(self.model)
        groups = [{"params": [self.model[0].weight]}, {"params": [self.model[0].bias], "lr": 0.02}]
        rest = [*self.model[1].parameters(), *self.model[3].parameters()]
        self.optimisers = [torch.optim.Adam(groups, lr=0.1), torch.optim.SGD(rest, lr=0.05, momentum=0.9)]
        self.look = Look(self.average, patience)
        self.first = first
        self.history = pd.DataFrame()

    def loss(self, number: int) -> Tensor:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        return ((self.model(x) - x[:, :2]) ** 2).mean()

    def run(self, state: Path, steps: int = STEPS, at: int | None = None, **changes: Any) -> "Rich":
        def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            if number == at:
                ask(number)
            return self.loss(self.first + number), {}

        extras = {"schedule": schedule, "targets": [Ema(self.average, self.model, decay)], "watch": self.look}
        extras |= {"first_step": self.first} | changes
        self.history = fit(self.model, self.optimisers, steps, step, state, "rich", 0.5, **extras)
        return self

    def bytes(self) -> list[bytes]:
        """All that a run leaves behind."""
        states = [self.model.state_dict(), self.average.state_dict(), optimiser_state(self.optimisers), self.look.best]
        return [*map(save, states), self.history.to_csv().encode(), repr(self.look.errors).encode()]


def test_it_is_a_plain_loop(tmp_path: Path) -> None:
    """Two optimisers, three groups, a schedule, an average: written out."""
    want, first = Rich(), 5
    moved = copy.deepcopy(want.model)
    rates = [0.1, 0.02, 0.05]
    groups = [group for optimiser in want.optimisers for group in optimiser.param_groups]
    want.model.train()
    losses = []
    for number in range(first, first + STEPS):
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * schedule(number)
        loss = want.loss(number)
        for optimiser in want.optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(want.model.parameters(), 0.5)
        for optimiser in want.optimisers:
            optimiser.step()
        source = want.model.state_dict()
        for name, value in moved.state_dict().items():
            if value.is_floating_point():
                value.lerp_(source[name], 1 - decay(number))
            else:
                value.copy_(source[name])
        losses.append(loss.item())
    got = Rich(first=first).run(tmp_path / "state.pt")
    assert got.history["loss"].tolist() == losses
    assert save(got.model.state_dict()) == save(want.model.state_dict())
    assert save(got.average.state_dict()) == save(moved.state_dict())
    assert save(optimiser_state(got.optimisers)) == save(optimiser_state(want.optimisers))
    assert [group["lr"] for optimiser in got.optimisers for group in optimiser.param_groups] == rates  # as given


@pytest.mark.parametrize("keep", [1, 3, 50])
@pytest.mark.parametrize("patience", [3, 99])
def test_all_of_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, keep: int) -> None:
    """Stopped at every step, also at the one that ends the training early."""
    monkeypatch.setattr(loop, "KEEP_EVERY", keep)
    whole = Rich(patience).run(tmp_path / "state.pt")
    done = min(STEPS, 2 * patience)
    assert len(whole.history) == done and whole.look.looks == [*range(2, done + 1, 2), *[done] * (done % 2)]
    for at in range(done):
        with pytest.raises(stop.Interrupted, match=f"rich saved at step {at + 1} of 9"):
            Rich(patience).run(tmp_path / "state.pt", at=at)
        assert Rich(patience).run(tmp_path / "state.pt").bytes() == whole.bytes(), at


def test_a_look_is_kept(tmp_path: Path) -> None:
    """A crash after it does not repeat it: it may take long."""
    first, second = Rich(), Rich()

    def die(number: int) -> float:
        if number == 5:
            raise KeyboardInterrupt
        return schedule(number)

    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "state.pt", schedule=die)
    assert first.look.looks == [2, 4]
    assert second.run(tmp_path / "state.pt").look.looks == [6, 8, 9]
    assert second.bytes() == Rich().run(tmp_path / "state.pt").bytes()


def test_two_rounds_are_one(tmp_path: Path) -> None:
    """The schedule and the decay go on at the global step, and the optimisers where they were."""
    whole = Rich().run(tmp_path / "state.pt", watch=None)
    first = Rich().run(tmp_path / "state.pt", 4, watch=None)
    second = Rich(first=4)
    second.model.load_state_dict(first.model.state_dict())
    second.average.load_state_dict(first.average.state_dict())
    carried = optimiser_state(first.optimisers)
    kept = save(carried)
    with pytest.raises(stop.Interrupted):
        second.run(tmp_path / "state.pt", STEPS - 4, at=2, watch=None, carried=carried)
    assert save(carried) == kept  # the caller's own
    third = Rich(first=4).run(tmp_path / "state.pt", STEPS - 4, watch=None, carried=carried)
    assert third.history["step"].tolist() == [*range(STEPS - 4)]
    assert third.bytes()[:3] == whole.bytes()[:3]


def test_a_carried_state_brings_no_learning_rate(tmp_path: Path) -> None:
    first, second = Task(), Task(steps=1)
    first.run(tmp_path / "state.pt")
    before = second.weights()
    second.optimiser = torch.optim.Adam(second.model.parameters(), lr=0.0)
    second.run(tmp_path / "state.pt", carried=optimiser_state([first.optimiser]))
    assert torch.equal(second.weights(), before)


def test_a_carried_state_of_another_model(tmp_path: Path) -> None:
    task, other = Task(), nn.Linear(3, 5)
    optimiser = torch.optim.Adam(other.parameters())
    other(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    with pytest.raises(ULDError, match=r"round one: the optimiser state .* does not fit .*\(5, 3\).* begin anew"):
        task.run(tmp_path / "state.pt", carried=optimiser_state([optimiser]))
    with pytest.raises(ULDError, match="does not fit"):
        task.run(tmp_path / "state.pt", carried={"1.0.exp_avg": torch.zeros(2, 3)})
    assert not task.seen


def test_momentum_that_was_never_used_is_not_carried() -> None:
    task = Task()
    task.optimiser = torch.optim.SGD(task.model.parameters(), lr=0.1)
    task.model(torch.ones(1, 3)).sum().backward()
    task.optimiser.step()
    assert optimiser_state([task.optimiser]) == {}


def test_without_a_clip_the_gradient_stays(tmp_path: Path) -> None:
    moved = []
    for clip in (None, 1e6):
        task = Task(steps=1)
        task.optimiser = torch.optim.SGD(task.model.parameters(), lr=1.0)
        task.run(tmp_path / "state.pt", clip=clip)
        moved.append(task.weights())
    assert torch.equal(*moved)


def test_a_target_with_buffers_of_its_own(tmp_path: Path) -> None:
    task = Rich()
    task.run(tmp_path / "state.pt", targets=[Ema(task.average, task.model, 0.5, buffers=False)])
    assert task.average[1].running_mean.eq(0).all() and task.model[1].running_mean.ne(0).all()
    assert not torch.equal(task.average[0].weight, Rich().model[0].weight)


def test_the_ends_of_the_decay() -> None:
    """1: the target rests. 0: it is the source, and so are its counters."""
    source = nn.BatchNorm1d(3)
    source(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    target = nn.BatchNorm1d(3)
    before = save(target.state_dict())
    Ema(target, source, 1.0, buffers=False).update(0)
    assert save(target.state_dict()) == before
    Ema(target, source, lambda number: 0.0).update(7)
    assert save(target.state_dict()) == save(source.state_dict())
    with pytest.raises(ValueError, match="differ in"):
        Ema(nn.Linear(3, 3), source, 0.5).update(0)


def test_the_state_can_stay(tmp_path: Path) -> None:
    """Until the caller has written the result: a disk may be full."""
    whole = Rich().run(tmp_path / "state.pt", keep_state=True)
    again = Rich().run(tmp_path / "state.pt", keep_state=True, at=0)  # no step is left that could be stopped
    assert again.bytes() == whole.bytes() and not again.look.looks


def other_keys(data: bytes) -> bytes:
    return sealed({"model": {}, "optimiser": {}, "lines": []})


def other_shapes(data: bytes) -> bytes:
    state = torch.load(io.BytesIO(data[loop.CHECKSUM :]))
    return sealed(state | {"model": {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}})


def sealed(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return checksum(buffer.getvalue()).encode() + buffer.getvalue()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda data: b"", "is empty, cut off or damaged"),
        (lambda data: data[:5], "is empty, cut off or damaged"),
        (lambda data: data[:-1], "is empty, cut off or damaged"),
        (lambda data: data[:900] + bytes([data[900] ^ 4]) + data[901:], "is empty, cut off or damaged"),
        (other_keys, "was written by another version of uld"),
        (other_shapes, "was written by another version of uld"),
    ],
)
def test_a_state_that_cannot_be_taken_up(
    whole: tuple[Task, pd.DataFrame],
    tmp_path: Path,
    harm: Callable[[bytes], bytes],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is put aside with a line, and the training begins anew."""
    state = tmp_path / "state.pt"
    with pytest.raises(stop.Interrupted):
        Task(lambda number: ask(number) if number == 3 else None).run(state)
    state.write_bytes(harm(state.read_bytes()))
    left = state.read_bytes()
    second = Task()
    pd.testing.assert_frame_equal(second.run(state), whole[1], check_exact=True)
    assert torch.equal(second.weights(), whole[0].weights()) and second.seen == list(range(STEPS))
    warning = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: "))
    assert warning == f"warning: round one begins anew: {state} {said}. It is kept as {state}.aside."
    assert (tmp_path / "state.pt.aside").read_bytes() == left and not state.exists()


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "KEEP_EVERY", 4)
    history = Task().run(tmp_path / "state.pt")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["round one step 4 of 9", "round one step 8 of 9"]
    told = dict(part.split(" ") for part in lines[1].split(": ")[1].split(", "))
    assert list(told) == ["loss", "off", "mean"]
    assert float(told["loss"]) == pytest.approx(np.mean(history["loss"][4:8]), rel=1e-3)  # since the last line
