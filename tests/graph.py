"""What a stage imports and what dvc.yaml declares: shared by the tests of the graph."""

import ast
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent


def imports(path: Path) -> set[Path]:
    """Files of uld/ that a Python file imports, package `__init__`s included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found |= files(name)
    return found


def files(name: str) -> set[Path]:
    """Files that importing the dotted `name` runs (none if it is not ours)."""
    parts = name.split(".")
    if parts[0] != "uld":
        return set()
    found = {ROOT.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)}
    found.add(ROOT.joinpath(*parts).with_suffix(".py"))
    return {path for path in found if path.is_file()}


def closure(path: Path) -> set[str]:
    """Every file of uld/ reached from `path`, relative to the root."""
    seen: set[Path] = set()
    todo = imports(path)
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo |= imports(one) - seen
    return {str(p.relative_to(ROOT)) for p in seen}


def load(name: str) -> Any:
    """A YAML file of the project's root."""
    return YAML(typ="safe").load(ROOT / name)


def declared(stage: str) -> dict[str, Any]:
    """The body of a stage in dvc.yaml, be it a foreach or not."""
    body = load("dvc.yaml")["stages"][stage]
    return dict(body.get("do", body))
