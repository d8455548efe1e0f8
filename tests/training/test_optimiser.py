"""Optimisers by hand, and moments that go from one training to the next."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.adam import ADAM
from uld.training.optimiser import OptimiserParams, descend


@dataclass
class Here:
    state: Path
    moments: dict[str, Tensor] = field(default_factory=dict)


class Line(nn.Module):
    """Loss (w - 3)^2, whose gradient at w is 2 (w - 3)."""

    def __init__(self, at: float = 1.0, size: int = 1) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((size,), at, dtype=torch.float64))

    def step(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        return (self.w - 3).square().sum(), {}


def run(model: Line, here: Here, steps: int, lr: float = 0.1, **changes: Any) -> Line:
    groups = [{"params": [model.w], "lr": lr}]
    descend(model, groups, steps, model.step, OptimiserParams(**ADAM | {"clip": None} | changes), here, "line")
    return model


def test_one_step_of_each(tmp_path: Path) -> None:
    """Adam's first step is the learning rate whatever the gradient; RMSprop's is lr g / sqrt(0.01 g^2)."""
    here = Here(tmp_path / "state.pt")
    assert run(Line(), here, 1).w.item() == pytest.approx(1.1)
    assert run(Line(), here, 1, by="rmsprop").w.item() == pytest.approx(2.0)
    assert not here.moments and not here.state.exists()


def test_weight_decay_is_added_to_the_gradient(tmp_path: Path) -> None:
    """At w = 2 the gradient is -2; with a decay of 1 it is 0 and nothing moves, with one of 3 it points downwards."""
    here = Here(tmp_path / "state.pt")
    for by in ("adam", "rmsprop"):
        ends = [run(Line(2.0), here, 1, by=by, weight_decay=decay).w.item() for decay in (0, 1, 3)]
        assert ends[0] > 2 and ends[1] == pytest.approx(2.0, abs=1e-6) and ends[2] < 2


def test_clip_shortens_the_gradient(tmp_path: Path) -> None:
    """Gradients -4 and -2: unclipped, the second moments of RMSprop know; clipped to 1 they are alike."""
    here = Here(tmp_path / "state.pt")
    ends = [run(Line(1.0), here, 2, by="rmsprop", clip=clip).w.item() for clip in (None, 1e9, 1)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("by", ["adam", "rmsprop"])
def test_carried_moments_make_two_trainings_one(tmp_path: Path, by: str) -> None:
    here, anew, whole = (Here(tmp_path / name) for name in "abc")
    want = run(Line(), whole, 7, by=by).w.item()
    first = run(Line(), here, 4, by=by, carried=True)
    assert here.moments and all(value.device.type == "cpu" for value in here.moments.values())
    again = Line(run(Line(), anew, 4, by=by).w.item())
    assert run(first, here, 3, by=by, carried=True).w.item() == pytest.approx(want, abs=1e-12)
    assert abs(run(again, anew, 3, by=by).w.item() - want) > 1e-3 and not anew.moments


@pytest.mark.parametrize(("by", "size"), [("adam", 2), ("rmsprop", 1)])
def test_moments_of_other_parameters_or_another_optimiser_are_left(
    tmp_path: Path, by: str, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    here, fresh = Here(tmp_path / "a"), Here(tmp_path / "b")
    run(Line(), here, 4, carried=True)
    capsys.readouterr()
    found = run(Line(size=size), here, 3, by=by, carried=True)
    assert "line: its start has trained other parameters or by another optimiser" in capsys.readouterr().out
    assert torch.equal(found.w, run(Line(size=size), fresh, 3, by=by).w)
    assert capsys.readouterr().out.count("begins anew") == 0
    run(Line(size=size), here, 1, by=by)
    assert not here.moments  # what was not kept does not go on
