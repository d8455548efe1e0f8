"""The starts: models that rounds and rows begin at, a file a kind. A line of `starts` names its kind by its model."""

import importlib

from uld.base.errors import ParamsError
from uld.starts.base import Start

STARTS = {
    "frozen": "uld.starts.frozen:FrozenStart",
    "heads": "uld.starts.heads:HeadsStart",
    "encoder": "uld.starts.encoder:EncoderStart",
    "hourglass": "uld.starts.hourglass:HourglassStart",
}


def load(name: str) -> type[Start]:
    """The class of the start whose model is `name`; imported only when asked for.

    Raises:
        ParamsError: there is none.
    """
    if name not in STARTS:
        raise ParamsError(f"there is no start of model '{name}': choose one of {', '.join(STARTS)}.")
    module, kind = STARTS[name].split(":")
    found: type[Start] = getattr(importlib.import_module(module), kind)
    return found
