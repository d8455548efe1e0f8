"""Every block of params.yaml, the type that its stage reads it as, and the names by which blocks refer to others."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uld import datasets, methods, params, roi
from uld.detector import RowParams
from uld.errors import ParamsError
from uld.evaluate.protocols import EvaluateParams
from uld.features.backbone import PinnedParams
from uld.features.extract import NetworkParams
from uld.features.extractor import ReadoutParams
from uld.features.reduce import ReduceParams
from uld.features.training import TrainParams
from uld.models.frozen import FrozenParams
from uld.report.source import ReportParams

BLOCKS: dict[str, Any] = {
    "seed": int,
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
    "starts": lambda name: FrozenParams,
    "variants": lambda name: RowParams,
    "steps": lambda name: methods.load(name).Params,
    "rounds": lambda name: dict[str, str],
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
    found = [f"{path}: {key}: unknown key (misspelt?)" for key in tree if key not in BLOCKS and key not in TABLES]
    for key in keys:
        try:
            read(key, tree)
        except ParamsError as error:
            found.append(str(error))
    return found or list(_dangling(tree, path))


def _dangling(tree: dict[str, Any], path: Path) -> Iterator[str]:
    rounds = tree.get("rounds") or {}
    tables = {name: list(tree[name]) for name in TABLES if name in tree and name != "rounds"}
    tables["starts or rounds"] = [*tree["starts"], *rounds]
    references = [("dataset", tree["dataset"], "datasets"), ("backbone", tree["backbone"], "backbones")]
    references += [("report.row", tree["report"]["row"], "variants")]
    references += [("roi.providers", name, "roi_providers") for name in tree["roi"]["providers"]]
    for table, lines in (("starts", tree["starts"]), ("rounds", rounds), ("variants", tree["variants"])):
        for key, target in (("features", "networks"), ("start", "starts or rounds"), ("step", "steps")):
            references += [(f"{table}.{name}.{key}", one[key], target) for name, one in lines.items() if key in one]
    for key, name, table in references:
        if name not in tables[table]:
            yield f"{path}: {key}: '{name}' is no line of {table}, which has {', '.join(tables[table])}."
    for name, one in tree["starts"].items():
        absent = [layer for layer in one.get("layers", []) if layer not in tree["readout"]["layers"]]
        if absent:
            yield f"{path}: starts.{name}.layers: {absent} are not in readout.layers, so they are not stored."
