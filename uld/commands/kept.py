"""Tables of runs, kept beside a project as CSV: a line a row and seed, and the params in which the runs differ.

seeds.csv holds what `make study NAME=... SEEDS=...` ran. Columns: `row`, `seed`, `code` (the commit that ran, or
words), `params.<key>` where runs differ in it, then figures by their path in metrics/<row>.json. Tables of the first
version also have lines of rounds, with figures of their pose clusters only: they are kept, and are no rows.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from uld.artifacts.files import write_table
from uld.base.errors import ArtifactError
from uld.commands.experiments import Run
from uld.commands.table import Tree
from uld.report.tables import leaves

PREFIX = "params."
LABELS = ("row", "seed", "code")
FIGURES = re.compile(
    r"landmarks|detection_rate|stability|clusters\.landmark_\w+|poses\.(accuracy|of_yaw|yaw_explained)"
    r"|\w[\w-]*\.\w+\.(dense|detected|filled)\.(all|n\d+)\.(forward|backward)_nme"
    r"|\w[\w-]*\.\w+\.dense\.yaw\.\w+\.(forward|backward)_nme"
)


def read(path: Path) -> list[Run]:
    """The runs of a table, one a line.

    Raises:
        ArtifactError: there is no such table, or it lacks a column.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: `uld table --experiments --write {path}` makes it of what DVC kept.")
    return [_of_line(line) for line in _load(path).to_dict("records")]


def write(path: Path, runs: list[Run]) -> int:
    """Add runs to a table, each in the place of those with its row, seed and params; returns the number of lines."""
    fresh = pd.DataFrame(list(_lines(runs)))
    fresh = fresh.drop(columns=[name for name in _settings(fresh) if fresh[name].nunique(dropna=False) == 1])
    table = pd.concat([_load(path), fresh], ignore_index=True) if path.is_file() else fresh
    settings = _settings(table)
    table[settings] = table[settings].fillna("-")
    table = table.drop_duplicates(["row", "seed", *settings], keep="last")
    order = {row: number for number, row in enumerate(dict.fromkeys(table["row"]))}
    table = table.sort_values(["row", *settings, "seed"], key=lambda one: one.map(order) if one.name == "row" else one)
    figures = sorted(set(table.columns) - {*LABELS, *settings}, key=lambda name: (name.count("."), name))
    write_table(path, table[[*LABELS, *settings, *figures]])
    return len(table)


def _settings(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if str(name).startswith(PREFIX)]


def _load(path: Path) -> pd.DataFrame:
    """The table: figures as numbers, all else as the text that stands there (`null` is a value)."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in LABELS if name not in table]:
        raise ArtifactError(f"{path} has no column {', '.join(missing)}: it is no table of runs.")
    figures = [name for name in table.columns if name not in (*LABELS, *_settings(table))]
    try:
        return table.assign(**{name: pd.to_numeric(table[name]) for name in figures})
    except ValueError as error:
        raise ArtifactError(f"{path} holds a figure that is no number ({error}): mend or remove it.") from error


def _lines(runs: list[Run]) -> Iterator[dict[str, Any]]:
    for run in runs:
        seed = {"seed": run.settings["seed"], "code": run.code}
        settings = {PREFIX + key: value for key, value in run.settings.items() if key != "seed"}
        for name, tree in run.rows.items():
            figures = {path: value for path, value in leaves(tree) if FIGURES.fullmatch(path)}
            yield {"row": name, **seed, **settings, **figures}


def _of_line(line: dict[Any, Any]) -> Run:
    """One line as a run of one row; a round's line has no landmarks and is no row."""
    settings = {key.removeprefix(PREFIX): value for key, value in line.items() if key.startswith(PREFIX)}
    figures = {key: value for key, value in line.items() if FIGURES.fullmatch(key) and pd.notna(value)}
    rows = {line["row"]: _tree(figures)} if "landmarks" in figures else {}
    return Run(line["code"], {"seed": line["seed"], **settings}, rows)


def _tree(figures: dict[str, float]) -> Tree:
    """Dotted paths as a tree; a protocol has an empty `rule`, by which it is known as one."""
    tree: Tree = {}
    for path, value in figures.items():
        *above, last = path.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
        if last.endswith("_nme"):
            tree[above[0]]["rule"] = {}
    return tree
