"""What D-ULD++ (CVPR 2024) reports of methods that are rows here. Other images: the order of rows compares, no more."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

DIGITS = {"errors": (2, 2), "clusters": (2, 1)}  # forward and backward NME %; silhouette and Calinski-Harabasz index


def columns(kind: str, rows: Iterable[str]) -> dict[str, dict[str, str]]:
    """Image set of the paper -> row -> its two figures as text; without sets that the paper gives none of the rows for.

    Args:
        kind: `errors` or `clusters`.
        rows: names of table rows.
    """
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        for name, figures in _paper()[kind].get(row, {}).items():
            found.setdefault(name, {})[row] = pair(kind, figures)
    return found


def pair(kind: str, figures: Iterable[float]) -> str:
    """Two figures as text."""
    return " / ".join(f"{value:.{digits}f}" for value, digits in zip(figures, DIGITS[kind], strict=True))


@cache
def _paper() -> Any:
    return YAML(typ="safe").load((files("uld.report") / "published.yaml").read_text(encoding="utf-8"))
