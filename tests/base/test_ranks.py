"""Training in several processes: shares of a batch, the whole of them, and gradients that are those of one process."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.launcher.api import LaunchConfig

from uld.base import ranks
from uld.training.fit import CHECKSUM

ROOT = Path(__file__).parents[2]

# a network on shares, a head on the whole, a loss that no sum over shares would give; 5 items for 2 processes
PROGRAM = """
import os, signal, sys
import torch
from torch import nn
from uld.base import ranks, runtime
from uld.base.scratch import scratch_folder
from uld.training import fit as loop
from uld.training.fit import fit

loop.KEEP_EVERY = 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)


def main():
    torch.manual_seed(7 + runtime.process())  # the first process's weights count
    model = Model().double()

    def step(number):
        if runtime.process() and number == int(os.environ.get("KILLED", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number)).double()
        part = model.body(x[ranks.share(5)]).tanh()
        y = model.head(ranks.whole(part, 5))
        loss = (y[:, None] - y[None]).square().sum().sqrt() + y.std(0).prod()
        return loss, {"first": y[0, 0].detach()}

    state = scratch_folder("toy", toy=1) / "state.pt"
    history = fit(model, [torch.optim.SGD(model.parameters(), 0.1)], 6, step, state, "toy")
    kept = {"model": model.state_dict(), "lines": history.to_numpy().tolist()}
    torch.save(kept, f"{sys.argv[1]}-{runtime.process()}.pt")


ranks.divided(main)
"""


@pytest.mark.parametrize(("count", "processes"), [(5, 1), (5, 2), (6, 3), (1, 3), (4, 3)])
def test_shares_are_of_one_size_and_cover_all(count: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    found = []
    for process in range(processes):
        monkeypatch.setenv("RANK", str(process))
        found.append(ranks.share(count))
    np.testing.assert_array_equal(ranks.shares(count), found)
    assert np.concatenate(found)[:count].tolist() == [*range(count)]


def test_one_process_has_nothing_to_share() -> None:
    part, model = torch.ones(3, 2, requires_grad=True), nn.Linear(2, 1)
    assert ranks.whole(part, 3) is part
    model(part).sum().backward()
    slope = model.weight.grad
    ranks.average(model)
    ranks.align(model)
    assert model.weight.grad is slope
    assert ranks.anyone(True) and not ranks.anyone(False)


def raw(value: torch.Tensor) -> torch.Tensor:
    """Its bytes in their order, which is what NCCL sends and receives."""
    return value.as_strided((value.numel(),), (1,))


def test_parts_arrive_as_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[torch.Tensor], part: torch.Tensor) -> None:
        for one in parts:
            raw(one).copy_(raw(part))

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "all_gather", gather)
    monkeypatch.setattr(dist, "gather", lambda part, parts: gather(parts, part))
    monkeypatch.setattr(dist, "broadcast_object_list", lambda *args, **kwargs: None)
    part = torch.arange(48.0).view(2, 2, 3, 4).to(memory_format=torch.channels_last)
    monkeypatch.setitem(ranks._served, "maps", lambda task: {"map": part})
    assert torch.equal(ranks.whole(part, 3), torch.cat([part, part])[:3])
    assert all(torch.equal(found["map"], part) for found in ranks.spread("maps", [0, 1]))


def test_torchrun_leaves_the_processes_time_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "environ", os.environ | {"ULD_NPROC": "2"})
    monkeypatch.setattr(os, "execv", lambda python, words: started.append(words))
    ranks._relaunch()
    assert "torch.distributed.run" in started[0] and "--nproc-per-node=2" in started[0]
    assert LaunchConfig(1, 1, 2).shutdown_timeout == ranks.SAVING > 30


def toy(folder: Path, name: str, count: int, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "toy.py").write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, "toy.py", name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ULD_NPROC": str(count), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("mistake", [{"ULD_DEVICE": "cuda:0"}, {"ULD_NPROC": "all"}])
def test_a_mistake_is_told_once(tmp_path: Path, mistake: dict[str, str]) -> None:
    done = toy(tmp_path, "x", 2, **mistake)
    assert done.returncode == 2 and re.fullmatch(r"error: ULD_(DEVICE|NPROC)=.*\n", done.stderr)


@pytest.mark.cpu  # two processes want two GPUs
def test_a_killed_process_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path))
    started = time.monotonic()
    done = toy(tmp_path, "x", 2, KILLED="5")
    assert done.returncode and "error: this stage's processes have lost each other" in done.stderr
    assert time.monotonic() - started < 300  # no hang: seconds on idle cores
    (state,) = tmp_path.glob("toy-*/state.pt")
    assert len(torch.load(io.BytesIO(state.read_bytes()[CHECKSUM:]))["lines"]) == 4
    assert toy(tmp_path, "x", 1).returncode == 0 and not state.exists()
    assert len(torch.load(tmp_path / "x-0.pt")["lines"]) == 6


@pytest.mark.cpu  # two processes want two GPUs
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    for count in (1, 2):
        done = toy(tmp_path, f"of{count}", count)
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("of1-0", "of2-0", "of2-1"))
    assert len(one["lines"]) == 6
    for name, want in one["model"].items():
        assert torch.equal(first["model"][name], second["model"][name])
        torch.testing.assert_close(first["model"][name], want, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.tensor(first["lines"]), torch.tensor(one["lines"]), rtol=0, atol=1e-6)
    assert first["lines"] == second["lines"]
