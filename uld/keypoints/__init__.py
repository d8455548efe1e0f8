"""Detectors of points that can teach a detection head. A new one is a file and a line of `POINTS`."""

import importlib
from typing import Any

from uld.base.errors import ParamsError
from uld.base.params import build
from uld.keypoints.base import Keypoints

POINTS = {
    "superpoint": "uld.keypoints.superpoint:SuperPoint",
    "classical": "uld.keypoints.classical:Classical",
    "learned": "uld.keypoints.learned:Learned",
    "file": "uld.keypoints.file:File",
}


def load(name: str) -> type[Keypoints]:
    """The class of the detector `name`, with its block of params as `Params`; imported only when asked for.

    Raises:
        ParamsError: no detector of points has this name.
    """
    if name not in POINTS:
        raise ParamsError(f"there is no detector of points '{name}': choose one of {', '.join(POINTS)}.")
    module, kind = POINTS[name].split(":")
    found: type[Keypoints] = getattr(importlib.import_module(module), kind)
    return found


def named(block: dict[str, Any], key: str, *others: str) -> tuple[str, dict[str, Any]]:
    """What a block `{by: ..., ...}` names, and all else that it holds.

    Args:
        key: where it stands in params.yaml. others: names that it may have beside those of detectors.

    Raises:
        ParamsError: it has another name, or none.
    """
    rest = dict(block)
    by = str(rest.pop("by", None))
    if by not in (*others, *POINTS):
        raise ParamsError(f"params.yaml: {key}.by: must be one of {', '.join((*others, *POINTS))}, not '{by}'.")
    return by, rest


def chosen(block: dict[str, Any], key: str) -> tuple[type[Keypoints], Any]:
    """The detector that a block `{by: ..., ...}` at `key` of params.yaml names, and its params.

    Raises:
        ParamsError: an unknown detector, or params that are not its own.
    """
    by, rest = named(block, key)
    kind = load(by)
    return kind, build(kind.Params, rest, key)
