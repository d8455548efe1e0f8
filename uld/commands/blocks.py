"""Every block of params.yaml, the type that its stage reads it as, and the names by which blocks refer to others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uld import datasets, methods, roi
from uld.base import params
from uld.base.errors import ParamsError
from uld.detector import RoundParams, RowParams
from uld.diffusion.aggregated import AggregatedParams
from uld.diffusion.extract import NetworkParams
from uld.diffusion.extractor import ReadoutParams
from uld.diffusion.pinned import PinnedParams
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.training import TrainParams
from uld.evaluate.protocols import EvaluateParams
from uld.models.frozen import FrozenParams
from uld.report.source import ReportParams
from uld.training.bootstrap import BootstrapParams, teacher

BLOCKS: dict[str, Any] = {
    "seed": int,
    "code": str,
    "dataset": str,
    "source": str,
    "roi": roi.RoiParams,
    "backbone": str,
    "readout": ReadoutParams,
    "reduce": ReduceParams | None,
    "landmarks": int,
    "evaluate": EvaluateParams,
    "report": ReportParams,
}
TABLES: dict[str, Callable[[str], Any]] = {  # a table's name -> the type of its block of a given name
    "datasets": lambda name: datasets.kind(name).Params,
    "roi_providers": lambda name: roi.kind(name).Params,
    "backbones": lambda name: TrainParams | PinnedParams,
    "networks": lambda name: NetworkParams,
    "keypoints": teacher,
    "starts": lambda name: FrozenParams | BootstrapParams,
    "aggregated": lambda name: AggregatedParams,
    "variants": lambda name: RowParams,
    "steps": lambda name: methods.load(name).Params,
    "rounds": lambda name: RoundParams,
}


def read(key: str, tree: dict[str, Any]) -> Any:
    """The block at `key` ("roi", "starts.frozen") as its type.

    Raises:
        ParamsError: it is missing or wrong.
    """
    table, _, name = key.partition(".")
    block = tree.get(table)
    if name:
        if not isinstance(block, dict) or name not in block:
            raise ParamsError(f"params.yaml: key '{key}' is missing.")
        return params.build(TABLES[table](name), block[name], key)
    if table not in tree:
        raise ParamsError(f"params.yaml: key '{key}' is missing.")
    return params.build(BLOCKS[table], block, key)


def problems(path: Path) -> list[str]:
    """What is wrong with params.yaml, unused blocks included: a message each; wrong references if all else is right."""
    tree = params.load(path)
    keys = [*BLOCKS]
    for table in TABLES:
        keys += [f"{table}.{name}" for name in tree.get(table) or {}]
    unknown = [key for key in tree if key not in BLOCKS and key not in TABLES]
    if set(unknown) & params.RENAMED.keys():
        return [params.outdated(tree, str(path))]
    found = [f"{path}: {key}: unknown key (misspelt?)" for key in unknown]
    for key in keys:
        try:
            read(key, tree)
        except ParamsError as error:
            found.append(str(error))
    return found or list(_dangling(tree, path))


def _dangling(tree: dict[str, Any], path: Path) -> Iterator[str]:
    tree = tree | {name: tree.get(name) or {} for name in TABLES}
    tables = {name: list(tree[name]) for name in TABLES}
    tables["starts or rounds"] = [*tables["starts"], *tables["rounds"]]
    tables["networks or aggregated"] = [*tables["networks"], *tables["aggregated"]]
    for key, name, table in _references(tree):
        if name not in tables[table]:
            yield f"{path}: {key}: '{name}' is no line of {table}, which has {', '.join(tables[table]) or 'none'}."
    yield from (f"{path}: {said}" for said in (*_order(tree), *_resting(tree), *_unstored(tree)))


def _references(tree: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, the name that stands there, the table that must have it)."""
    yield "dataset", tree["dataset"], "datasets"
    yield "backbone", tree["backbone"], "backbones"
    yield "report.row", tree["report"]["row"], "variants"
    for name in tree["roi"]["providers"]:
        yield "roi.providers", name, "roi_providers"
    targets = {"keypoints": "keypoints", "start": "starts or rounds", "step": "steps"}
    for table in ("starts", "rounds", "variants"):
        wanted = targets | {"features": "networks" if table == "starts" else "networks or aggregated"}
        for name, one in tree[table].items():
            yield from ((f"{table}.{name}.{key}", one[key], wanted[key]) for key in wanted if key in one)


def _order(tree: dict[str, Any]) -> Iterator[str]:
    """Rounds start from rounds above them; rows that end a round see the features that it was trained on."""
    rounds = list(tree["rounds"])
    for number, (name, one) in enumerate(tree["rounds"].items()):
        if name in tree["starts"]:
            yield f"rounds.{name}: starts has a line of this name, and both keep a model in artifacts/rounds/{name}."
        elif one["start"] == name:
            yield f"rounds.{name}.start: a round cannot start from itself: name a line of starts or an earlier round."
        elif one["start"] in rounds[number:]:
            yield f"rounds.{name}.start: '{one['start']}' is a later round: name a line of starts or an earlier round."
    for name, one in tree["variants"].items():
        if one["start"] in rounds and one["features"] != (seen := tree["rounds"][one["start"]]["features"]):
            yield (
                f"variants.{name}.features: '{one['features']}' is not what round '{one['start']}' was trained on: "
                f"rows that start from it have features: {seen}."
            )


def _resting(tree: dict[str, Any]) -> Iterator[str]:
    """Aggregators that rest are those of learned starts; what reads their maps begins there and goes on with them."""
    resting = [name for name in tree["aggregated"] if name not in tree["networks"]]
    for name, one in tree["aggregated"].items():
        start = tree["starts"].get(name, {})
        if name not in resting:
            yield f"aggregated.{name}: networks has a line of this name, and both are kept in artifacts/features."
        elif start.get("head") != "learned":
            yield f"aggregated.{name}: it must have the name of a line of starts with head: learned."
        elif one["features"] != start["features"]:
            yield (
                f"aggregated.{name}.features: '{one['features']}' is not what start '{name}' was trained on: "
                f"let it be {start['features']}."
            )
    rounds = tree["rounds"]
    lines = {f"rounds.{name}": one for name, one in rounds.items()}
    lines |= {f"variants.{name}": one for name, one in tree["variants"].items() if one["start"] not in rounds}
    for key, one in lines.items():
        before = rounds[one["start"]]["features"] if one["start"] in rounds else one["start"]
        if one["features"] in resting and before != one["features"]:
            yield (
                f"{key}.features: '{one['features']}' holds what the aggregator of that start made: begin there, or at "
                "a round that reads it too."
            )


def _unstored(tree: dict[str, Any]) -> Iterator[str]:
    """Layers and timesteps that a start reads and the feature stores lack."""
    for name, start in tree["starts"].items():
        for part in ("", ".projection", ".model"):
            block = start.get(part[1:], {}) if part else start
            for key in ("layers", "timesteps"):
                absent = [one for one in block.get(key, []) if one not in tree["readout"][key]]
                if absent:
                    yield f"starts.{name}{part}.{key}: {absent} are not in readout.{key}, so they are not stored."
