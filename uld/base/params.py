"""Closed parameters: every block of params.yaml becomes a frozen dataclass of the room that uses it.

A room declares its block as

    @dataclass(frozen=True, config=CLOSED)      # pydantic.dataclasses.dataclass
    class RoiParams:
        margin: Annotated[float, Field(ge=0)]

without defaults, so that params.yaml alone says what a run did. An unknown, missing or wrongly typed key raises
`ParamsError` with its full path.
"""

import json
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from uld.base import given
from uld.base.errors import ParamsError
from uld.base.shown import short

T = TypeVar("T")

CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
# tables of the first version's params.yaml -> what they are called now
RENAMED = {"variants": "rows", "steps": "methods", "networks": "stores", "keypoints": "starts.*.train.keypoints"}
RENAMED_IN_LINES = {  # keys that lines of its tables had
    "head": "`head: frozen` is `model: frozen` and `head: learned` is `model: heads` in starts",
    "step": "`step: X` is `method: X`",
    "features": "`features: X` is `reads: features/X`",
}
NAMED = ("datasets", "roi_providers", "backbones", "stores", "starts", "aggregated", "rounds", "rows", "methods")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # of a line: dvc.yaml makes commands of it, and `find` steps of dots
NODES, DEPTH = 100_000, 50  # values in a file, and blocks within blocks, at most: an alias may stand for thousands
WITH_LINES = ("starts", "aggregated", "rounds", "rows", "variants")


def load(path: Path) -> dict[str, Any]:
    """The whole file as plain dicts and lists (YAML 1.2, as DVC reads it: `1e-4` is a float).

    Raises:
        ParamsError: no regular file, no YAML in UTF-8, a key that stands there twice; blocks without end; of
            params.yaml also keys of an earlier version, and names of lines that a shell would not take as they are.
    """
    if not given.exists(path):
        raise ParamsError(f"{path} is missing: run from the project's root.")
    tree = _parsed(given.text(path, ParamsError), path)
    if not isinstance(tree, dict):
        raise ParamsError(f"{path} must hold a mapping of keys to values: correct it.")
    _refuse_endless(tree, path)
    if path.name == "params.yaml":
        if said := outdated(tree, str(path)):
            raise ParamsError(said)
        _refuse_names(tree, path)
    return tree


def _parsed(text: str, path: Path) -> Any:
    try:
        _refuse_depth(text, path)
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}," if mark else str(path)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParamsError(f"{place} is not valid YAML ({short(said)}): correct it.") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # a value is not what its tag says, or has thousands of digits
        raise ParamsError(f"{path} is not valid YAML: a value cannot be read ({short(error)}): correct it.") from error


def _refuse_depth(text: str, path: Path) -> None:
    """Before anything is built of it: what builds it goes down into each block, and the process would crash."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEPTH:
            raise _too_deep(path)


def _refuse_endless(tree: dict[str, Any], path: Path) -> None:
    """Refuse what has no end when each alias is written out, or as good as none."""
    todo: list[tuple[Any, int]] = [(tree, 1)]
    for _ in range(NODES):
        if not todo:
            return
        node, depth = todo.pop()
        if depth > DEPTH:
            raise _too_deep(path)
        if isinstance(node, dict):
            _refuse_keys(node, path)
        within = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
        todo += [(one, depth + 1) for one in within]
    raise ParamsError(f"{path} holds more than {NODES} values, aliases written out: write fewer.")


def _too_deep(path: Path) -> ParamsError:
    return ParamsError(
        f"{path} nests blocks more than {DEPTH} deep, or an alias stands within itself: write the values out."
    )


def _refuse_keys(block: dict[Any, Any], path: Path) -> None:
    for key in block:
        if not isinstance(key, (str, int, float, NoneType)):
            raise ParamsError(f"{path}: the key '{short(key)}' is no text: correct it.")


def _refuse_names(tree: dict[str, Any], path: Path) -> None:
    """Lines give their names to commands of the shell, files and folders, by way of dvc.yaml."""
    for table in NAMED:
        for name in tree[table] if isinstance(tree.get(table), dict) else ():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ParamsError(
                    f"{path}: {table}: a line is called {short(repr(name))}: take a name of letters, digits, '_' and "
                    "'-' that does not begin with '-', and quote one of digits alone."
                )


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
                raise ParamsError(f"{place}.{key}: must be one of {', '.join(table)}, not {short(repr(chosen))}.")
            return table[str(chosen)]
    return kind


def _say(error: Any) -> str:
    match error["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return "unknown key (misspelt?)"
        case "missing" | "missing_argument":
            return "key is missing"
    return f"{error['msg']}, not {short(repr(error['input']))}"
