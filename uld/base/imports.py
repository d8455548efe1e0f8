"""Which files of the package a script runs: its imports, those of its imports, and what its tables open by name."""

import ast
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from uld.base.errors import ParamsError

OURS = ("uld", "stages")
ENTRY = re.compile(r"uld(\.\w+)+:\w+")  # as in `methods.METHODS`: the module and the class that a name in params opens
DATA = re.compile(r"\w+\.\w+")


class Code:
    """The files below one folder, each parsed once.

    Args:
        root: the folder that holds uld/ and stages/; names of files are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._parsed: dict[Path, ast.Module] = {}
        self._known: dict[Path, set[Path]] = {}

    def closure(self, files: list[str]) -> list[str]:
        """The given files and all that they import or read beside them, directly or not, sorted.

        Imports inside functions count, those for type checkers do not. An entry of a literal table is a string and no
        import, so a closure ends at the tables: `entry` gives the file that an instance of a stage opens. A file that
        is no module counts if a module of its folder names it: package data.
        """
        needed = {self.root / name for name in files}
        todo = set(needed)
        while todo:
            found = self._needs(todo.pop()) - needed
            needed |= found
            todo |= {path for path in found if path.suffix == ".py"}
        return sorted(path.relative_to(self.root).as_posix() for path in needed)

    def entry(self, room: str, name: str) -> str | None:
        """The file that the table of uld/<room>/__init__.py has for `name`; None if the room imports all it has.

        Raises:
            ParamsError: the table has no such entry.
        """
        table = _table(self._tree(self.root / "uld" / room / "__init__.py"))
        if not table:
            return None
        if name not in table:
            raise ParamsError(f"params.yaml: uld/{room} has no '{name}': choose one of {', '.join(table)}.")
        return table[name].split(":")[0].replace(".", "/") + ".py"

    def fingerprint(self, name: str) -> str:
        """SHA-256 of a file without the entries of its literal tables: a new one changes no other's stage."""
        path = self.root / name
        text = path.read_bytes()
        if path.suffix == ".py" and (entries := set(_entry_lines(self._tree(path)))):
            lines = enumerate(text.splitlines(keepends=True), 1)
            text = b"".join(line for number, line in lines if number not in entries)
        return hashlib.sha256(text).hexdigest()

    def _tree(self, path: Path) -> ast.Module:
        if path not in self._parsed:
            self._parsed[path] = ast.parse(path.read_text(encoding="utf-8"))
        return self._parsed[path]

    def _needs(self, path: Path) -> set[Path]:
        """Files that one module imports or names."""
        if path not in self._known:
            package = path.relative_to(self.root).parts[:-1]
            nodes = list(_run(self._tree(path)))
            imported = {file for node in nodes for name in _names(node, package) for file in self._files(name)}
            self._known[path] = imported | {file for node in nodes for file in _data(node, path)}
        return self._known[path]

    def _files(self, name: str) -> Iterator[Path]:
        """Files that importing the dotted `name` (a module, or something in one) runs; none if it is not ours."""
        parts = name.split(".")
        if parts[0] in OURS:
            for n in range(1, len(parts) + 1):
                place = self.root.joinpath(*parts[:n])
                yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())


def _table(tree: ast.Module) -> dict[str, str]:
    """The literal tables of a module: name -> "module:Class"."""
    return {str(key.value): str(value.value) for key, value in _entries(tree)}


def _entry_lines(tree: ast.Module) -> Iterator[int]:
    """Lines on which entries of literal tables stand, counted from 1."""
    for key, value in _entries(tree):
        yield from range(key.lineno, (value.end_lineno or value.lineno) + 1)


def _entries(tree: ast.Module) -> Iterator[tuple[ast.Constant, ast.Constant]]:
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and _opens(value.value):
                    yield key, value


def _opens(value: object) -> bool:
    return isinstance(value, str) and ENTRY.fullmatch(value) is not None


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without what only a type checker reads."""
    yield node
    checked = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if isinstance(node, ast.If) and checked else ast.iter_child_nodes(node):
        yield from _run(child)


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that an import opens."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        module = [*above, *([node.module] if node.module else [])]
        yield from (".".join([*module, alias.name]) for alias in node.names)


def _data(node: ast.AST, path: Path) -> Iterator[Path]:
    """The file beside a module that a text in it names, if it is no module itself."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and DATA.fullmatch(node.value):
        beside = path.with_name(node.value)
        if beside.suffix != ".py" and beside.is_file():
            yield beside
