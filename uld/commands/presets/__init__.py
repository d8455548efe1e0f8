"""Named settings: each YAML file of this folder is a list of changes to params.yaml.

about: one line
base: another preset whose changes come first     (optional)
note: what to know before running it              (optional)
changes:
  dotted.key: value                               (`<images>` stands for the user's folder)
  rounds.duld*.key: value                         (all keys that fit, should there be any; [1] stands for 1, and makes
                                                   a pattern of a name that not every project has)
rounds:
  duld: 20                                        (optional: how many rounds of a method, where the project has it)
"""

import fnmatch
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap

from uld.base import params, writing
from uld.base.errors import DataError, ParamsError
from uld.commands import edit, rounds

FOLDER = Path(__file__).parent
IMAGES = "<images>"
PATTERN = re.compile(r"[*[]")
PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_/][\w./-]*", re.I)  # text that an override need not quote


@dataclass(frozen=True)
class Preset:
    """A preset as read: `changes` are dotted key -> value, in order; `rounds` line of `methods` -> number."""

    name: str
    about: str
    note: str
    changes: dict[str, Any]
    rounds: dict[str, int]


class Change(NamedTuple):
    """What happens to one dotted key of params.yaml."""

    key: str
    old: Any
    new: Any


def names() -> list[str]:
    """Names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def about(name: str) -> str:
    """The line that says what a preset is for."""
    return str(params.load(FOLDER / f"{name}.yaml")["about"])


def load(name: str, images: Path | None = None) -> Preset:
    """Read a preset.

    Args:
        name: of the preset.
        images: the folder that replaces `<images>`; needed if the preset has it.

    Raises:
        ParamsError: no such preset, or `images` is missing or not wanted.
        DataError: `images` is no folder.
    """
    if name not in names():
        raise ParamsError(f"there is no preset '{name}': choose one of {', '.join(names())}.")
    tree = edit.load(FOLDER / f"{name}.yaml")  # with the layout of its lists, which params.yaml takes over
    base = load(tree["base"]) if "base" in tree else None
    changes = (dict(base.changes) if base else {}) | tree["changes"]
    many = (dict(base.rounds) if base else {}) | edit.plain(tree).get("rounds", {})
    wanted = [key for key, value in changes.items() if value == IMAGES]
    if bool(wanted) != (images is not None):
        raise ParamsError(f"preset '{name}' {'needs' if wanted else 'takes no'} --images.")
    if images is not None:
        if not images.is_dir():
            raise DataError(f"{images} is no folder: give --images the folder of your photographs.")
        changes |= dict.fromkeys(wanted, images.as_posix())
    return Preset(name, tree["about"], tree.get("note", ""), changes, many)


def apply(preset: Preset, path: Path) -> tuple[CommentedMap, list[Change]]:
    """params.yaml with the preset, not yet saved, and what changes in it.

    Raises:
        ParamsError: params.yaml lacks some of the blocks; all are named.
    """
    tree = edit.load(path)
    lacking: list[str] = []
    for pattern, value in preset.changes.items():
        for key in _fitting(tree, pattern.split(".")):
            if block := edit.absent(tree, key):
                lacking.append(block)
            else:
                edit.put(tree, key, value, path)
    if lacking:
        raise ParamsError(
            f"{path} has no {', '.join(dict.fromkeys(lacking))}, which preset '{preset.name}' changes; nothing is "
            "written. Copy what is missing from the params.yaml of a new project: `uld new FOLDER --images PATH`."
        )
    # from the text, where a block that is merged into others (`<<: *frozen`) takes them along
    return tree, list(_changes(params.load(path), edit.plain(tree)))


def chains(preset: Preset, tree: dict[str, Any]) -> dict[str, int]:
    """How many rounds a preset wants of each method that has a chain of them in its params, of another length."""
    now = {method: rounds.length(tree, method) for method in preset.rounds}
    return {method: count for method, count in preset.rounds.items() if now[method] not in (0, count)}


def _fitting(tree: Any, parts: list[str], above: str = "") -> Iterator[str]:
    """The dotted keys of a pattern; a part without a star or bracket stands for itself, be it there or not."""
    if not parts:
        yield above.rstrip(".")
        return
    first, *rest = parts
    below = tree if isinstance(tree, dict) else {}
    for name in fnmatch.filter(below, first) if PATTERN.search(first) else [first]:
        yield from _fitting(below.get(name), rest, f"{above}{name}.")


def _changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[Change]:
    for key in new:
        if isinstance(old[key], dict) and isinstance(new[key], dict) and old[key].keys() == new[key].keys():
            yield from _changes(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            yield Change(f"{prefix}{key}", old[key], new[key])


def overrides(change: Change) -> list[str]:
    """A change as arguments of `dvc exp run -S`, quoted for a shell: it merges mappings, so lines that go are named."""
    old, new = change.old, change.new
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [shlex.quote(f"{change.key}={hydra(new)}")]
    gone = [f"~{change.key}.{name}" for name in old if name not in new]
    gained = [f"++{change.key}={hydra(new)}"] if new else []  # lines that are new must be asked for: ++
    return [shlex.quote(word) for word in (*gone, *gained)]


def hydra(value: Any) -> str:
    """A value in the grammar of `-S`: null, true, 0.5, text, [a,b], {k:v}."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(hydra, value))}]"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        # Hydra takes a backslash as it is, but for those right before a quotation mark
        return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value) + '"'
    return str(value)


def _write(path: Path, tree: CommentedMap, many: dict[str, int]) -> None:
    """Save params.yaml with its rounds; as it was if these cannot be written.

    Raises:
        ParamsError: as `rounds.chain`.
    """
    before = path.read_bytes()
    edit.save(path, tree)
    try:
        for method, count in many.items():
            rounds.chain(path, method, count)
    except ParamsError:
        writing.write(path, before)
        raise


# --- on the terminal ---


def show_all() -> None:
    """Print a line a preset."""
    width = max(map(len, names()))
    for name in names():
        print(f"{name:{width}}  {about(name)}")
    print("\n`uld preset NAME` shows what it changes; --write changes params.yaml.")


def _said(change: Change, value: Any) -> str:
    """A value as `show` prints it; of a whole table, the names of its lines."""
    return f"{{{', '.join(value)}}}" if isinstance(value, dict) and "." not in change.key else hydra(value)


def show(preset: Preset, path: Path, write: bool) -> None:
    """Print what a preset changes in params.yaml, and change it if `write`; or say how to run it as an experiment."""
    tree, changes = apply(preset, path)
    print(f"{preset.name}: {preset.about}")
    width = max((len(change.key) for change in changes), default=0)
    for change in changes:
        print(f"  {change.key:{width}}  {_said(change, change.old)} -> {_said(change, change.new)}")
    many = chains(preset, edit.plain(tree))
    for method, count in many.items():
        print(f"  rounds of {method}: {count}")
    if not changes and not many:
        print(f"{path} has all of it already.")
    if preset.note:
        print(f"\n{preset.note}")
    if write:
        _write(path, tree, many)
        print(f"\n{path} is changed: run `dvc repro`.")
    elif many:
        print("\nTo write it, add --write.")
    elif changes:
        print("\nTo write it, add --write. To try it as an experiment:")
        print("  dvc exp run " + " ".join(f"-S {word}" for change in changes for word in overrides(change)))
