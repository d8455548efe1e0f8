"""Change params.yaml in place. Comments, order and layout of everything else stay as they are."""

from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.representer import RoundTripRepresenter

from uld.base import params
from uld.base.errors import ParamsError
from uld.base.writing import write


class _Representer(RoundTripRepresenter):
    """Writes `null` in full, as params.yaml does."""


_Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def yaml() -> YAML:
    """Reads and writes a file without changing what is not changed."""
    made = YAML()
    made.Representer = _Representer
    made.preserve_quotes = True
    made.width = 4096
    made.indent(mapping=2, sequence=4, offset=2)
    return made


def load(path: Path) -> CommentedMap:
    """The file with its comments.

    Raises:
        ParamsError: missing, or no YAML.
    """
    params.load(path)  # says what is wrong with it
    tree: CommentedMap = yaml().load(path)
    return tree


def absent(tree: CommentedMap, key: str) -> str | None:
    """The block that a dotted key lacks: its shortest part that is not there. None: all of it is there."""
    node: Any = tree
    parts = key.split(".")
    for number, name in enumerate(parts, 1):
        if not isinstance(node, dict) or name not in node:
            return ".".join(parts[:number])
        node = node[name]
    return None


def put(tree: CommentedMap, key: str, value: Any, where: Path) -> None:
    """Replace the value at the dotted `key`; one that is equal already keeps its layout.

    Raises:
        ParamsError: there is no such key in the file `where`.
    """
    if absent(tree, key) is not None:
        raise ParamsError(f"{where}: key '{key}' is missing, so it cannot be changed: add it first.")
    *above, last = key.split(".")
    node: Any = tree
    for name in above:
        node = node[name]
    if node[last] != value or isinstance(node[last], bool) != isinstance(value, bool):  # True == 1
        node[last] = deepcopy(value)  # the same list in two places would become an anchor and an alias


def plain(tree: CommentedMap) -> dict[str, Any]:
    """What a reader of the saved file will see: plain dicts and lists."""
    text = StringIO()
    yaml().dump(tree, text)
    seen: dict[str, Any] = YAML(typ="safe").load(text.getvalue())
    return seen


def save(path: Path, tree: CommentedMap) -> None:
    """Write the file in one step."""
    text = StringIO()
    yaml().dump(tree, text)
    write(path, text.getvalue().encode())
