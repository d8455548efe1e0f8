"""Detectors of points that can teach a detection head. A new one is a file and a line of `POINTS`."""

import importlib

from uld.base.errors import ParamsError
from uld.keypoints.base import Keypoints

POINTS = {
    "superpoint": "uld.keypoints.superpoint:SuperPoint",
    "classical": "uld.keypoints.classical:Classical",
    "learned": "uld.keypoints.learned:Learned",
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
