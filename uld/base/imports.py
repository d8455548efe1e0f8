"""Which files of the package a script runs: what a stage depends on, beside its inputs."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

LAZY = re.compile(r"uld(\.\w+)+:\w+")  # as in `methods.STEPS`: a class that params.yaml opens by name


def closure(script: Path) -> list[str]:
    """Files of uld/ that a script imports, directly or not, relative to the project's root and sorted.

    A file that is opened by a name in params.yaml is not among them, but all that it imports is: dvc.yaml depends on
    the opened file itself, so that an edit to one method leaves the rows of the others alone.

    Args:
        script: a file of a folder beside uld/.
    """
    root = script.resolve().parents[1]
    needed: set[Path] = set()
    opened = {script.resolve()}
    todo = set(opened)
    while todo:
        imported, lazy = ({path for name in names for path in _files(name, root)} for names in _names(todo.pop()))
        todo |= (imported | lazy) - needed - opened
        needed |= imported
        opened |= lazy
    return sorted(path.relative_to(root).as_posix() for path in needed)


@functools.cache
def _names(path: Path) -> tuple[list[str], list[str]]:
    """Dotted names that a file imports, and those that it opens by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(_imported(tree)), list(_lazy(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _lazy(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.fullmatch(node.value):
            yield node.value.split(":")[0]


def _files(name: str, root: Path) -> Iterator[Path]:
    """Files that importing the dotted `name` runs; none if it is not ours."""
    parts = name.split(".")
    if parts[0] == "uld":
        packages = (root.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1))
        yield from (path for path in (*packages, root.joinpath(*parts).with_suffix(".py")) if path.is_file())
