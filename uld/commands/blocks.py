"""Every block of params.yaml, the type that its stage reads it as, and the names by which blocks refer to others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from uld import datasets, methods, models, roi, starts
from uld.base import params, random
from uld.base.errors import ParamsError
from uld.base.shown import short
from uld.diffusion import pinned
from uld.diffusion.aggregated import AggregatedParams
from uld.diffusion.extract import StoreParams
from uld.diffusion.extractor import ReadoutParams
from uld.diffusion.pinned import NoBackboneParams, PinnedParams
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.training import TrainParams
from uld.evaluate.protocols import EvaluateParams
from uld.methods.lines import RoundParams, RowParams, landmarks_of
from uld.report.source import ReportParams
from uld.training.bootstrap import teacher

CROPS = "roi/crops"
FEATURES = "features/"

BLOCKS: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0, lt=random.MOST)],
    "code": str,
    "dataset": str,
    "source": str,
    "roi": roi.RoiParams,
    "backbone": str,
    "readout": ReadoutParams,
    "reduce": ReduceParams | None,
    "landmarks": Annotated[int, Field(ge=0)],
    "evaluate": EvaluateParams,
    "report": ReportParams,
}
TABLES: dict[str, Callable[[str, Any], Any]] = {  # a table's name -> the type of a line, by its name and its text
    "datasets": lambda name, _: datasets.kind(name).Params,
    "roi_providers": lambda name, _: roi.kind(name).Params,
    "backbones": lambda *_: TrainParams | PinnedParams | NoBackboneParams,
    "stores": lambda *_: StoreParams,
    "starts": lambda _, line: starts.load(str(line.get("model"))).Params,
    "aggregated": lambda *_: AggregatedParams,
    "rounds": lambda *_: RoundParams,
    "rows": lambda *_: RowParams,
}
METHODS = "methods"  # a table with two blocks a line

Tree = dict[str, Any]


def read(key: str, tree: Tree) -> Any:
    """The block at `key` ("roi", "starts.frozen", "methods.duld.train") as its type.

    Raises:
        ParamsError: it is missing or wrong.
    """
    block = params.find(tree, key)
    return params.build(_kind(key, block), block, key)


def _kind(key: str, block: Any) -> Any:
    """The type of a block."""
    table, *names = key.split(".")
    if not names:
        return BLOCKS[table]
    if table == METHODS:
        return parts(names[0])[names[1]]
    if not isinstance(block, dict):
        raise ParamsError(f"params.yaml: {key}: must be a mapping of keys to values, not {short(repr(block))}.")
    try:
        return TABLES[table](names[0], block)
    except ParamsError as error:
        raise ParamsError(f"params.yaml: {key}: {error}") from error


def parts(method: str) -> dict[str, Any]:
    """The blocks of a method and their types: `cluster` and, of a method with rounds, `train`.

    Raises:
        ParamsError: there is no such method.
    """
    kind = methods.load(method)
    return {"cluster": kind.Cluster} | ({} if kind.Train is None else {"train": kind.Train})


def problems(path: Path) -> list[str]:
    """What is wrong with params.yaml, unused blocks included: a message each; wrong references if all else is right."""
    tree = params.load(path)
    known = [*BLOCKS, *TABLES, METHODS]
    found = [f"{path}: {key}: unknown key (misspelt?)" for key in tree if key not in known]
    found += [f"{path}: key '{key}' is missing." for key in known if key not in tree]
    if misshapen := [name for name in (*TABLES, METHODS) if not isinstance(tree.get(name) or {}, dict)]:
        return found + [f"{path}: {name}: must be a table of lines." for name in misshapen]
    tree |= {name: tree.get(name) or {} for name in (*TABLES, METHODS)}
    found += _wrong(tree, path)
    return found or [f"{path}: {said}" for said in _dangling(tree)]


def _wrong(tree: Tree, path: Path) -> Iterator[str]:
    """Blocks that their stage would refuse."""
    keys = [key for key in BLOCKS if key in tree]
    keys += [f"{table}.{name}" for table in TABLES for name in tree[table]]
    for method, line in tree[METHODS].items():
        key = f"{METHODS}.{method}"
        try:
            wanted = parts(method)
        except ParamsError as error:
            yield f"{path}: {key}: {error}"
            continue
        keys += [f"{key}.{part}" for part in wanted]
        if isinstance(line, dict):
            yield from (f"{path}: {key}.{part}: unknown key (misspelt?)" for part in line if part not in wanted)
    for key in keys:
        try:
            _check(key, tree)
        except ParamsError as error:
            yield str(error)


def _check(key: str, tree: Tree) -> None:
    """Read a block; of a start that is trained, what teaches its detector too."""
    block = read(key, tree)
    if key == "source":
        datasets.source_folder(block)
    if key.startswith("starts.") and hasattr(block, "train"):
        teacher(block.train, f"{key}.train")


# --- names by which blocks refer to others ---


def _dangling(tree: Tree) -> list[str]:
    """Names that no line has, and lines that do not go together; what they read, when all else is right."""
    found = [*_absent(tree), *_twice(tree), *_of_starts(tree), *_of_aggregated(tree), *_of_rounds(tree), *_few(tree)]
    return found or list(_of_lines(tree))


def _absent(tree: Tree) -> Iterator[str]:
    begun = [*tree["starts"], *tree["aggregated"], *tree["rounds"]]
    tables = {name: list(tree[name]) for name in (*TABLES, METHODS)} | {"starts, aggregated or rounds": begun}
    for key, name, table in _references(tree):
        if name not in tables[table]:
            yield f"{key}: '{name}' is no line of {table}, which has {', '.join(tables[table]) or 'none'}."


def _references(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """(key, the name that stands there, the table that must have it)."""
    yield "dataset", tree["dataset"], "datasets"
    yield "backbone", tree["backbone"], "backbones"
    yield "report.row", tree["report"]["row"], "rows"
    for name in tree["roi"]["providers"]:
        yield "roi.providers", name, "roi_providers"
    for name, line in tree["aggregated"].items():
        yield f"aggregated.{name}.start", line["start"], "starts"
    for table in ("rounds", "rows"):
        for name, line in tree[table].items():
            yield f"{table}.{name}.start", line["start"], "starts, aggregated or rounds"
            yield f"{table}.{name}.method", line["method"], METHODS


def _twice(tree: Tree) -> Iterator[str]:
    """Names of two lines whose artifacts would have one place."""
    kept = [("stores", "aggregated", "artifacts/features")]
    kept += [(*pair, "artifacts/rounds") for pair in (("starts", "aggregated"), ("starts", "rounds"))]
    kept += [("aggregated", "rounds", "artifacts/rounds")]
    for first, second, place in kept:
        for name in tree[second]:
            if name in tree[first]:
                yield f"{second}.{name}: {first} has a line of this name, and both are kept in {place}: rename one."


def _of_starts(tree: Tree) -> Iterator[str]:
    """Starts on features read a store that there is, and of it layers and timesteps that are stored."""
    stores = [f"{FEATURES}{name}" for name in tree["stores"]]
    if stores and tree["backbones"].get(tree["backbone"], {}).get("kind") == "none":
        yield f"backbone: {pinned.NONE}"
    for name, start in tree["starts"].items():
        there = [CROPS] if models.kind(start["model"]).reads_pixels else stores
        if start["reads"] not in there:
            yield (
                f"starts.{name}.reads: a model '{start['model']}' cannot read '{start['reads']}': it reads "
                f"{' or '.join(there) or 'a line of stores, which has none'}."
            )
        for part in ("", ".projection", ".network"):
            block = start.get(part[1:], {}) if part else start
            for key in ("layers", "timesteps"):
                absent = [one for one in block.get(key, []) if one not in tree["readout"][key]]
                if absent:
                    yield f"starts.{name}{part}.{key}: {absent} are not in readout.{key}, so they are not stored."


def _of_aggregated(tree: Tree) -> Iterator[str]:
    """Aggregated starts are those of a start with an aggregator."""
    for name, line in tree["aggregated"].items():
        start = tree["starts"].get(line["start"])
        if start is None:
            continue
        if start["model"] != "heads":
            yield f"aggregated.{name}.start: '{line['start']}' has no aggregator: name a start of model heads."
        elif line["reads"] != start["reads"]:
            yield _unread(f"aggregated.{name}", line, start["reads"])


def _of_rounds(tree: Tree) -> Iterator[str]:
    """Rounds start from rounds above them, and their method can train."""
    rounds = list(tree["rounds"])
    for number, (name, line) in enumerate(tree["rounds"].items()):
        if line["start"] == name:
            yield f"rounds.{name}.start: a round cannot start from itself: name a line of starts or an earlier round."
        elif line["start"] in rounds[number:]:
            yield f"rounds.{name}.start: '{line['start']}' is a later round: name a line of starts or an earlier round."
        if line["method"] in tree[METHODS] and "train" not in parts(line["method"]):
            yield f"rounds.{name}.method: '{line['method']}' trains nothing: choose a method that has a block `train`."


def _few(tree: Tree) -> Iterator[str]:
    """Rounds and rows with fewer or more landmarks than their method can find."""
    for table in ("rounds", "rows"):
        for name, line in tree[table].items():
            key, count = f"{table}.{name}.landmarks", line.get("landmarks")
            key, count = ("landmarks", tree["landmarks"]) if count is None else (key, count)
            if line["method"] in tree[METHODS]:
                try:
                    landmarks_of(count, methods.load(line["method"]), f"{key}: {table}.{name}")
                except ParamsError as error:
                    yield str(error)


def _of_lines(tree: Tree) -> Iterator[str]:
    """Rounds and rows read what the model reads that they begin at."""
    seen = {name: line["reads"] for name, line in tree["starts"].items()}
    seen |= {name: f"{FEATURES}{name}" for name in tree["aggregated"]}
    for name, line in tree["rounds"].items():
        seen[name] = seen[line["start"]]
    for table in ("rounds", "rows"):
        for name, line in tree[table].items():
            if line["reads"] != seen[line["start"]]:
                yield _unread(f"{table}.{name}", line, seen[line["start"]])


def _unread(key: str, line: dict[str, str], right: str) -> str:
    return f"{key}.reads: '{line['reads']}' is not what the model of '{line['start']}' reads: let it be {right}."


def shared(tree: Tree) -> list[tuple[str, str]]:
    """Blocks that stand in two places by an alias of YAML (`*name`, `<<: *name`): dotted keys of both.

    `dvc exp run -S` writes one place after the other, and both then hold what was written last, be it new or old.
    """
    first: dict[int, str] = {}
    found: list[tuple[str, str]] = []

    def walk(block: Tree, key: str) -> None:
        if id(block) in first:
            found.append((first[id(block)], key))
            return
        first[id(block)] = key
        for name, value in block.items():
            if isinstance(value, dict):
                walk(value, f"{key}.{name}" if key else str(name))

    walk(tree, "")
    return found
