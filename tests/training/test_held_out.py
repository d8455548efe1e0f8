"""Early stopping: when it ends the training, which weights it keeps, and that it goes on where it was."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from uld.training.held_out import HeldOut


def watch(errors: Iterator[float], patience: int = 2, min_gain: float = 0.0) -> tuple[nn.Linear, HeldOut]:
    model = nn.Linear(1, 1)
    return model, HeldOut(
        model, lambda: next(errors), every=5, patience=patience, min_gain=min_gain, name="toy", of="error"
    )


def looks(errors: list[float], patience: int = 2, min_gain: float = 0.0) -> tuple[list[bool], HeldOut]:
    """What it says at each check; the model's bias is the number of the check."""
    model, held = watch(iter(errors), patience, min_gain)
    said = []
    for number in range(len(errors)):
        torch.nn.init.constant_(model.bias, number)
        said.append(held.after(5 * (number + 1)))
    return said, held


@pytest.mark.parametrize(
    ("errors", "gain", "said", "best"),
    [
        ([3, 2, 1], 0, [False] * 3, 2),
        ([3, 4, 2, 4, 5], 0, [False] * 4 + [True], 2),
        ([3, 2.9, 2.8], 0.1, [False, False, True], 2),  # too slow, and yet the best
        ([3, 3, 3], 0, [False, False, True], 0),  # no gain
        ([3, math.nan, math.nan], 0, [False, False, True], 0),
    ],
)
def test_it_stops_and_keeps_the_best(errors: list[float], gain: float, said: list[bool], best: int) -> None:
    got, held = looks(errors, min_gain=gain)
    assert got == said
    assert (held.best_error, held.best_step) == (errors[best], 5 * (best + 1))
    assert held.best["bias"].item() == best


@pytest.mark.parametrize("at", range(1, 5))
def test_it_goes_on_where_it_was(at: int) -> None:
    errors = [3.0, 4.0, 2.0, 4.0, 5.0]
    said, want = looks(errors)
    state = looks(errors[:at])[1].state_dict()
    model, held = watch(iter(errors[at:]))
    held.load_state_dict(state)
    later = []
    for number in range(at, len(errors)):
        torch.nn.init.constant_(model.bias, number)
        later.append(held.after(5 * (number + 1)))
    assert later == said[at:]
    assert (held.best_error, held.best_step) == (want.best_error, want.best_step)
    assert torch.equal(held.best["bias"], want.best["bias"])


def test_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    looks([0.51239])
    assert capsys.readouterr().out == "toy step 5: error 0.5124\n"
