"""The optimiser of most trainings, as params give it."""

from typing import Any

ADAM: dict[str, Any] = {"by": "adam", "weight_decay": 0, "clip": 1, "carried": False}
