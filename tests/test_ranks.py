"""Training in several processes: shares of a batch, the whole of them, and gradients that are those of one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from uld import ranks

ROOT = Path(__file__).parents[1]

# a network on shares, a head on the whole, a loss that no sum over shares would give; 5 items for 2 processes
PROGRAM = """
import sys
import torch
from torch import nn
from uld import ranks, runtime
from uld.optimise import optimise


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.unused = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)


def main():
    torch.manual_seed(7 + runtime.process())  # the first process's weights count
    model = Model().double()

    def step(number):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number)).double()
        part = model.body(x[ranks.share(5)]).tanh()
        y = model.head(ranks.whole(part, 5))
        loss = (y[:, None] - y[None]).square().sum().sqrt() + y.std(0).prod()
        return loss, {"first": y[0, 0].detach()}

    state = runtime.scratch("toy", toy=1) / "state.pt"
    history = optimise(model, torch.optim.SGD(model.parameters(), 0.1), 6, step, state, "toy")
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


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PROGRAM)
    for count in (1, 2):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ULD_NPROC": str(count), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "toy.py", f"of{count}"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("of1-0", "of2-0", "of2-1"))
    assert len(one["lines"]) == 6
    for name, want in one["model"].items():
        assert torch.equal(first["model"][name], second["model"][name])
        torch.testing.assert_close(first["model"][name], want, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.tensor(first["lines"]), torch.tensor(one["lines"]), rtol=0, atol=1e-6)
    assert first["lines"] == second["lines"]
