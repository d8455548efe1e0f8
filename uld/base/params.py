"""Closed parameters: every block of params.yaml becomes a frozen dataclass of the room that uses it.

A room declares its block as

    @dataclass(frozen=True, config=CLOSED)      # pydantic.dataclasses.dataclass
    class RoiParams:
        margin: Annotated[float, Field(ge=0)]

without defaults, so that params.yaml alone says what a run did. An unknown, missing or wrongly typed key raises
`ParamsError` with its full path.
"""

import json
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from uld.base import given
from uld.base.errors import ParamsError

T = TypeVar("T")

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
# tables of the first version's params.yaml -> what they are called now
RENAMED = {"variants": "rows", "steps": "methods", "networks": "stores", "keypoints": "starts.*.train.keypoints"}
RENAMED_IN_LINES = {  # keys that lines of its tables had
    "head": "`head: frozen` is `model: frozen` and `head: learned` is `model: heads` in starts",
    "step": "`step: X` is `method: X`",
    "features": "`features: X` is `reads: features/X`",
}
NODES, DEPTH = 100_000, 40  # values of a file at most, and how deep they are nested
WITH_LINES = ("starts", "aggregated", "rounds", "rows", "variants")


def load(path: Path) -> dict[str, Any]:
    """The whole file as plain dicts and lists (YAML 1.2, as DVC reads it: `1e-4` is a float)."""
    if not path.exists():
        raise ParamsError(f"{path} is missing: run from the project's root.")
    try:
        tree = YAML(typ="safe").load(given.content(path, ParamsError).decode("utf-8-sig"))
    except (YAMLError, ValueError, RecursionError) as error:  # also what is no UTF-8, and numbers of 5,000 digits
        raise ParamsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ParamsError(f"{path} must hold a mapping of keys to values.")
    _refuse_endless(tree, path)
    if path.name == "params.yaml" and (said := outdated(tree, str(path))):
        raise ParamsError(said)
    return tree


def _refuse_endless(tree: dict[str, Any], path: Path) -> None:
    """Refuse what aliases blow up: one that holds itself, or a few lines that stand for billions."""
    todo: list[tuple[Any, int]] = [(tree, 0)]
    for number in range(NODES):
        if not todo:
            return
        node, depth = todo.pop()
        if depth > DEPTH:
            raise ParamsError(f"{path} is nested more than {DEPTH} deep: an alias (*name) may hold itself.")
        inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        todo += [(one, depth + 1) for one in inside]
        if len(todo) + number > NODES:
            break
    raise ParamsError(f"{path} stands for more than {NODES} values: write them out, without aliases (*name).")


@overload
def read(kind: type[T], key: str, path: Path = ...) -> T: ...
@overload
def read(kind: UnionType, key: str, path: Path = ...) -> Any: ...
def read(kind: Any, key: str, path: Path = Path("params.yaml")) -> Any:
    """The block at the dotted `key`, checked and converted to `kind` (a dataclass or a plain type).

    Raises:
        ParamsError: naming the full path of each unknown, missing or wrongly typed key.
    """
    return build(kind, find(load(path), key, str(path)), key, str(path))


def find(tree: dict[str, Any], key: str, where: str = "params.yaml") -> Any:
    """What stands at the dotted `key` of a tree.

    Raises:
        ParamsError: a name of the key is missing; it tells which ones are there.
    """
    block: Any = tree
    done: list[str] = []
    for name in key.split("."):
        if not isinstance(block, dict) or name not in block:
            if said := outdated(tree, where):
                raise ParamsError(said)
            there = ", ".join(map(str, block)) if isinstance(block, dict) else "no keys"
            place = ".".join(done) or "the top"
            raise ParamsError(f"{where}: key '{key}' is missing: no '{name}' under {place} (there: {there}).")
        block = block[name]
        done.append(name)
    return block


def outdated(tree: dict[str, Any], where: str = "params.yaml") -> str:
    """What was renamed, if a tree has keys that an earlier version of uld called so; else nothing."""
    old = [f"{name} is {RENAMED[name]} now" for name in RENAMED if name in tree and RENAMED[name] not in tree]
    tables = [tree[name] for name in WITH_LINES if isinstance(tree.get(name), dict)]
    keys = {key for table in tables for line in table.values() if isinstance(line, dict) for key in line}
    old += [said for key, said in RENAMED_IN_LINES.items() if key in keys]
    if not old:
        return ""
    return (
        f"{where} is of an earlier version of uld, and keys have other names now: {', '.join(old)}. Rename them, or "
        "begin with a new file: `uld new FOLDER --images PATH` writes one."
    )


def build(kind: type[T], block: Any, key: str, where: str = "params.yaml") -> T:
    """`block` as `kind`; `key` is its place, for messages. Types are strict: "3" is no number, 3 is a float."""
    try:
        # through JSON, so that a YAML list fits a tuple and an integer a float, and nothing else is coerced
        text = json.dumps(block, default=str)  # a date is text
        return TypeAdapter(_meant(kind, block, f"{where}: {key}")).validate_json(text, strict=True)
    except ValidationError as error:
        lines = [f"{where}: {'.'.join([key, *map(str, e['loc'])])}: {_say(e)}" for e in error.errors()]
        raise ParamsError("\n".join(lines)) from error


def _meant(kind: Any, block: Any, place: str) -> Any:
    """Of a union of blocks, the one whose literal `kind` (or `loss`) is the block's: only its own errors are told."""
    for key in ("kind", "loss"):
        table = {name: one for one in get_args(kind) for name in get_args(getattr(one, "__annotations__", {}).get(key))}
        if table:
            chosen = block.get(key) if isinstance(block, dict) else block
            if str(chosen) not in table:
                raise ParamsError(f"{place}.{key}: must be one of {', '.join(table)}, not {chosen!r}.")
            return table[str(chosen)]
    return kind


def _say(error: Any) -> str:
    match error["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "unknown key (misspelt?)"
        case "missing" | "missing_argument":
            return "key is missing"
    return f"{error['msg']}, not {error['input']!r}"
