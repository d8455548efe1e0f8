"""The table `rounds` of params.yaml: a line a round of self-training, each starting from the one before."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from uld.base import params
from uld.base.errors import ParamsError
from uld.base.writing import write
from uld.commands import edit


def chain(path: Path, method: str, count: int, start: str | None = None) -> list[str]:
    """Write the lines `<method>-1` ... `<method>-<count>`; the method's later lines, if any, are taken out.

    Rows, and rounds of other methods, that start from the method's last round go on starting from its last round. A
    chain reads what the model reads that it starts from, and has the `landmarks` of its first line, where that has any.

    Args:
        path: params.yaml.
        method: a block of `methods`.
        count: number of rounds.
        start: where the first one starts: a line of `starts`, `aggregated` or `rounds`; None: where it starts now, or
            else the first line of `starts` that is trained.

    Returns:
        The lines as written.

    Raises:
        ParamsError: an unknown method or start, a count below 1, or a line to be taken out is still in use.
    """
    tree = edit.load(path)
    for name in ("rounds", "starts", "methods", "rows"):
        if name not in tree or not isinstance(tree[name] or {}, dict):
            raise ParamsError(params.outdated(tree, str(path)) or f"{path}: the table '{name}' is missing.")
    rounds: dict[str, Any] = tree["rounds"] or {}
    ours = _ours(rounds, method)
    places = [*tree["starts"], *(tree.get("aggregated") or {}), *(line for line in rounds if line not in ours)]
    trained = [name for name, block in tree["starts"].items() if "train" in block]
    start = start or rounds.get(f"{method}-1", {}).get("start") or [*trained, *places][0]
    if method not in tree["methods"]:
        raise ParamsError(f"{path}: there is no method '{method}'; methods has {', '.join(tree['methods'])}.")
    if "train" not in tree["methods"][method]:
        raise ParamsError(f"{path}: '{method}' trains nothing, so it has no rounds.")
    if start not in places:
        raise ParamsError(f"{path}: a chain of '{method}' cannot start from '{start}'; there are {', '.join(places)}.")
    if count < 1:
        raise ParamsError(f"{count} rounds of '{method}': at least 1 is needed.")
    wanted = [f"{method}-{number}" for number in range(1, count + 1)]
    before, reads = [start, *wanted], _reads(tree, start)
    own = {key: value for key, value in rounds.get(f"{method}-1", {}).items() if key == "landmarks"}
    blocks = {
        line: {"reads": reads, "start": one, "method": method} | own for line, one in zip(wanted, before, strict=False)
    }
    last = max(ours, key=lambda line: int(line.rpartition("-")[2]), default=None)
    _refuse_in_use(tree, set(ours) - {last, *wanted}, {*ours, *wanted}, path)
    text = _splice(path.read_text(), tree, ours, blocks, path)
    if last is not None and last != wanted[-1]:
        text = _follow(text, last, wanted)
    write(path, text.encode())
    return [_line(name, block).strip() for name, block in blocks.items()]


def length(tree: dict[str, Any], method: str) -> int:
    """How many lines `<method>-<number>` the table has."""
    return len(_ours(tree.get("rounds") or {}, method))


def _ours(rounds: dict[str, Any], method: str) -> list[str]:
    return [line for line in rounds if re.fullmatch(re.escape(method) + r"-\d+", line)]


def _reads(tree: CommentedMap, start: str) -> str:
    """What the model of a start or round reads."""
    if start in (tree.get("aggregated") or {}):
        return f"features/{start}"
    return str((tree["starts"].get(start) or tree["rounds"][start])["reads"])


def _refuse_in_use(tree: CommentedMap, gone: set[str], own: set[str], path: Path) -> None:
    for table in ("rounds", "rows"):
        for name, block in (tree[table] or {}).items():
            if block["start"] in gone and name not in own:
                raise ParamsError(
                    f"{path}: {table}.{name} starts from '{block['start']}', which would go: mend it first."
                )


def _line(name: str, block: dict[str, Any]) -> str:
    return f"  {name}: {{{', '.join(f'{key}: {value}' for key, value in block.items())}}}"


def _splice(text: str, tree: CommentedMap, old: list[str], blocks: dict[str, dict[str, Any]], path: Path) -> str:
    """The text with the lines `old` of the table replaced by `blocks`; a line that stays the same keeps its comment.

    Cut and paste on the text, because a YAML writer hangs the comments below a table on its last line and moves them.
    """
    lines = text.splitlines()
    head, _ = tree.lc.key("rounds")
    rounds: Any = tree["rounds"] or {}
    extents = {name: _extent(lines, rounds.lc.key(name)[0]) for name in rounds}
    if any(extent.start == head for extent in extents.values()):
        raise ParamsError(f"{path}: write the table 'rounds' with one line a round.")
    fresh: list[str] = []
    for name, block in blocks.items():
        same = name in rounds and dict(rounds[name]) == block
        fresh += lines[slice(extents[name].start, extents[name].stop)] if same else [_line(name, block)]
    end = max((extent.stop for extent in extents.values()), default=head + 1)
    place = min((extents[name].start for name in old), default=end)
    replaced = {number for name in old for number in extents[name]}
    lines[head] = re.sub(r"^rounds:\s*(\{\s*\}|null|~)", "rounds:", lines[head])
    above = [line for number, line in enumerate(lines[:place]) if number not in replaced]
    below = [line for number, line in enumerate(lines[place:], place) if number not in replaced]
    return "\n".join([*above, *fresh, *below]) + "\n"


def _follow(text: str, old: str, wanted: list[str]) -> str:
    """The text with all but `wanted` itself that starts from line `old` of the table starting from the last wanted."""
    tree, lines = edit.yaml().load(text), text.splitlines()
    start = re.compile(rf"(\bstart:\s*){re.escape(old)}(?![\w-])")
    tables: list[Any] = [tree["rounds"], tree["rows"] or {}]
    for table in tables:
        for name, block in table.items():
            if block.get("start") == old and name not in wanted:
                for number in _extent(lines, table.lc.key(name)[0]):
                    lines[number] = start.sub(rf"\g<1>{wanted[-1]}", lines[number])
    return "\n".join(lines) + "\n"


def _extent(lines: list[str], first: int) -> range:
    """Lines of the entry that begins at line `first`: that one and those indented deeper."""
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = first + 1
    while last < len(lines) and re.match(rf" {{{indent + 1},}}[^\s#]", lines[last]):
        last += 1
    return range(first, last)
