"""uld: unsupervised landmark discovery as a reproducible pipeline.

uld.Detector and uld.decode find landmarks in photographs; both are imported when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# by name and not by import: every stage imports this file, and none is to depend on what it does not use
_OFFERED = {"Detector": "uld.detector", "decode": "uld.images.decode"}


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'uld' has no attribute '{name}'")
    return getattr(import_module(_OFFERED[name]), name)
