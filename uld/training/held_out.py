"""Early stopping: train until the error on data that no step sees no longer falls, and keep the best weights."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from uld.base import runtime


class HeldOut:
    """A `Watch` of `fit` that takes an error every few steps and ends the training when it no longer falls.

    Attributes:
        best: the weights of `model` at its lowest error. best_error: that error. best_step: steps done by then.
    """

    def __init__(
        self,
        model: nn.Module,
        error: Callable[[], float],
        *,
        every: int,
        patience: int,
        min_gain: float,
        name: str,
        of: str = "held-out error",
    ) -> None:
        """Watch a model.

        Args:
            model: whose weights are kept; the one that learns, or an average of it.
            error: the model's error now; lower is better. All randomness in it must be the same each time.
            every: steps between two checks.
            patience: checks without progress that end the training.
            min_gain: a check is progress if the error fell by more than this share of the lowest so far.
            name: of the run, for the printed line. of: what the error is, in that line.
        """
        self.every = every
        self._model, self._error = model, error
        self._patience, self._min_gain = patience, min_gain
        self._line = f"{name} step {{}}: {of} {{:.4f}}"
        self.best = {name: value.clone() for name, value in model.state_dict().items()}
        self.best_error, self.best_step, self._stale = math.inf, 0, 0

    def after(self, done: int) -> bool:
        """Take the error after `done` steps; True: it has not fallen for `patience` checks."""
        error = self._error()
        self._stale = 0 if error < self.best_error * (1 - self._min_gain) else self._stale + 1
        if not runtime.process():
            print(self._line.format(done, error), flush=True)
        if error < self.best_error:
            self.best_error, self.best_step = error, done
            self._keep(self._model.state_dict())
        return self._stale >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """What the next check depends on, and the best weights."""
        return {"best": self.best, "error": self.best_error, "step": self.best_step, "stale": self._stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_error, self.best_step, self._stale = state["error"], state["step"], state["stale"]
        self._keep(state["best"])

    def _keep(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.best[name].copy_(value)
