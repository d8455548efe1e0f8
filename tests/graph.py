"""What dvc.yaml declares, for the tests of the graph."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def load(name: str) -> Any:
    """A YAML file of the project's root."""
    return YAML(typ="safe").load(ROOT / name)


def declared(stage: str) -> dict[str, Any]:
    """The body of a stage in dvc.yaml, be it a foreach or not."""
    body = load("dvc.yaml")["stages"][stage]
    return dict(body.get("do", body))
