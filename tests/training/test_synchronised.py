"""BatchNorm over several processes is that of one."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from uld.training.synchronised import synchronised

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path
import torch
from torch import nn
from uld.base import ranks, runtime
from uld.training.ema import Ema
from uld.training.fit import fit
from uld.training.synchronised import synchronised


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36))
        self.head = nn.Linear(36, 2)
        self.free = nn.BatchNorm1d(2, momentum=None, affine=False)


def main():
    torch.manual_seed(7 + runtime.process())  # the first process's weights count
    model, target = synchronised(Model().double()), synchronised(Model().double())

    def step(number):
        x = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(number)).double()
        x = x[ranks.share(6)]
        y, still = ranks.whole(model.free(model.head(model.body(x))), 6), ranks.whole(target.body(x), 6)
        return (y[:, None] - y[None] - 1).square().sum().sqrt() + still.detach().square().mean(), {}

    state, targets = Path(sys.argv[1] + ".state"), [Ema(target, model, 0.9)]
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    history = fit(model, [optimiser], 4, step, state, "toy", targets=targets)
    kept = {"model": model.state_dict(), "target": target.state_dict(), "lines": history.to_numpy().tolist()}
    kept["apart"] = model.body(torch.ones(3, 2, 5, 5).double())  # evaluation: no one else is asked
    torch.save(kept, f"{sys.argv[1]}-{runtime.process()}.pt")


ranks.divided(main)
"""


def test_two_processes_are_one(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(PROGRAM)
    for count in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ULD_NPROC": count, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "toy.py", f"of{count}"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("of1-0", "of2-0", "of2-1"))
    assert one["model"]["body.1.num_batches_tracked"] == 4
    for part in ("model", "target"):
        assert one[part].keys() == first[part].keys()
        for name, want in one[part].items():
            assert torch.equal(first[part][name], second[part][name])
            torch.testing.assert_close(first[part][name], want, rtol=0, atol=1e-10)
    torch.testing.assert_close(first["apart"], one["apart"], rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.tensor(first["lines"]), torch.tensor(one["lines"]), rtol=0, atol=1e-6)


def test_one_process_keeps_its_model() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    assert synchronised(model) is model and type(model[0]) is nn.BatchNorm1d


@pytest.mark.parametrize("trained", [True, False])
def test_the_same_weights_in_the_same_places(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ULD_DEVICE", "cpu")
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3))).train(trained)
    want = copy.deepcopy(model).eval()
    weights = list(model.parameters())
    made = synchronised(model)
    assert all(a is b for a, b in zip(made.parameters(), weights, strict=True))
    assert made.state_dict().keys() == want.state_dict().keys()
    assert made[1][0].training is trained and type(made[1][0]) is not nn.BatchNorm1d
    x = torch.randn(4, 2)
    assert torch.equal(made.eval()(x), want(x))
