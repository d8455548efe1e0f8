"""The optimiser of a start or a round, as params say."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.optim import Optimizer

from uld.base.params import CLOSED
from uld.training.fit import Figures, fit, misfit, optimiser_state

MOMENT = {"adam": "exp_avg_sq", "rmsprop": "square_avg"}  # what only this optimiser remembers


@dataclass(frozen=True, config=CLOSED)
class OptimiserParams:
    """How a gradient becomes a step."""

    by: Literal["adam", "rmsprop"]
    weight_decay: Annotated[float, Field(ge=0)]  # added to the gradient, times the weight
    clip: Annotated[float, Field(gt=0)] | None  # largest norm of the gradient; null: the gradient stays as it is
    # begin with the moments that the start ended with, where it has these parameters, and leave one's own
    carried: bool

    def make(self, groups: list[dict[str, Any]]) -> Optimizer:
        """The optimiser of parameter groups, each with its learning rate."""
        if self.by == "adam":
            return torch.optim.Adam(groups, weight_decay=self.weight_decay)
        return torch.optim.RMSprop(groups, weight_decay=self.weight_decay)

    def knows(self, optimiser: Optimizer, moments: dict[str, Tensor]) -> bool:
        """Whether these are moments of such an optimiser, for the parameters that it has."""
        return any(key.endswith(f".{MOMENT[self.by]}") for key in moments) and misfit([optimiser], moments) is None


class Place(Protocol):
    """What a start or a round says of its training: `uld.starts.base.Site`, `uld.methods.base.Training`."""

    @property
    def state(self) -> Path:
        """File of the resume state."""

    @property
    def moments(self) -> dict[str, Tensor]:
        """What the optimiser remembers: of the start when training begins, its own when it has ended."""


def descend(
    model: nn.Module,
    groups: list[dict[str, Any]],
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
    p: OptimiserParams,
    place: Place,
    name: str,
) -> pd.DataFrame:
    """`fit` with one optimiser; its moments go from round to round where params say so.

    Args:
        groups: trained parameters, each with its learning rate.
        name: of the run, for messages.

    Returns:
        A line a step.

    Raises:
        As `fit`.
    """
    optimiser = p.make(groups)
    given = dict(place.moments) if p.carried and p.knows(optimiser, place.moments) else None
    if p.carried and place.moments and given is None:
        print(f"{name}: its start has trained other parameters or by another optimiser: the optimiser begins anew.")
    history = fit(model, [optimiser], steps, step, place.state, name, p.clip, carried=given)
    place.moments.clear()
    if p.carried:
        place.moments.update(optimiser_state([optimiser]))
    return history
