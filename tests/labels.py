"""Some of the labels of a round, for tests that need fewer."""

from dataclasses import replace
from typing import Any

from uld.artifacts.labels import Labels

COLUMNS = ("image", "flipped", "label", "xy", "score", "detected")


def taken(labels: Labels, index: Any) -> Labels:
    """Those at an index, of as many landmarks, without arrays of a method's own."""
    return replace(labels, own={}, **{name: getattr(labels, name)[index] for name in COLUMNS})
