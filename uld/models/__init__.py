"""The models: what rounds of self-training begin at and end in. A line of params names its model in `MODELS`."""

import importlib

from uld.base.errors import ParamsError
from uld.models.base import Model

MODELS = {
    "frozen": "uld.models.frozen:Frozen",
    "heads": "uld.models.heads:Heads",
    "encoder": "uld.models.encoder:Encoder",
    "hourglass": "uld.models.hourglass:Hourglass",
}


def kind(name: str) -> type[Model]:
    """The class of the model `name`; imported only when asked for.

    Raises:
        ParamsError: no model has this name.
    """
    if name not in MODELS:
        raise ParamsError(f"there is no model '{name}': choose one of {', '.join(MODELS)}.")
    module, cls = MODELS[name].split(":")
    found: type[Model] = getattr(importlib.import_module(module), cls)
    return found


def name_of(model: Model) -> str:
    """The name of a model's class in `MODELS`."""
    here = f"{type(model).__module__}:{type(model).__name__}"
    return next(name for name, place in MODELS.items() if place == here)
