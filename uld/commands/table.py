"""The results table: a line a row, from metrics/<row>.json or from the experiments that DVC kept."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uld.base import params, shown
from uld.base.errors import ArtifactError, ParamsError
from uld.report import published
from uld.report.tables import leaves, pick, plain

FOLDER = Path("metrics")
FAVOURITES = ("p68", "points")  # mark-ups, of which the first there is is shown if none is named
OVER_SEEDS = "mean ± deviation over seeds"
SPREADS = ("_low", "_high", "_sd")  # columns beside a figure: 95 % interval over test images, deviation over seeds

Tree = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What is shown.

    protocol: None for the first in params.yaml. markup: annotation set, None for p68, points or the first there is.
    points: `dense`, the best match in every image; `detected`; `filled`, detections and the best match for the rest.
    every: all figures in place of the main ones. rows: in this order; None for all of params.yaml.
    """

    protocol: str | None = None
    markup: str | None = None
    points: str = "dense"
    every: bool = False
    rows: list[str] | None = None


@dataclass(frozen=True)
class Figure:
    """A number of the metrics tree: its column, dotted path, heading; how it is printed, and if with its interval."""

    name: str
    path: str
    title: str
    digits: int | None = None
    scale: float = 1.0
    interval: bool = False

    def text(self, value: float) -> str:
        """A dash where there is none."""
        if not np.isfinite(value):
            return "-"
        return plain(value) if self.digits is None else f"{value * self.scale:.{self.digits}f}"


@dataclass(frozen=True)
class Results:
    """`labels`: columns that say what a line is about; `figures`; `lines`: all of it, and columns <figure><spread>.

    A `tall` table is printed with a column for each of its lines. `beside`: heading -> row -> text, of columns that are
    printed behind the figures.
    """

    title: str
    labels: list[str]
    figures: list[Figure]
    lines: pd.DataFrame
    tall: bool = False
    beside: dict[str, dict[str, str]] = field(default_factory=dict)

    def texts(self) -> list[list[str]]:
        """Heading and lines as text."""
        head = [*self.labels, *(figure.title for figure in self.figures), *self.beside]
        lines = [
            [
                *(str(line[name]) for name in self.labels),
                *(_cell(line, figure) for figure in self.figures),
                *(texts.get(line["row"], "-") for texts in self.beside.values()),
            ]
            for line in self.lines.to_dict("records")
        ]
        return [list(column) for column in zip(head, *lines, strict=True)] if self.tall else [head, *lines]

    def csv(self) -> str:
        """Plain numbers, a column for each figure and for each spread that is known."""
        names = [figure.name + end for figure in self.figures for end in ("", *SPREADS)]
        return self.lines[[*self.labels, *(name for name in names if name in self.lines)]].to_csv(
            index=False, float_format="%.6g", lineterminator="\n"
        )

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        head, *lines = self.texts()
        rule = ["---" if self._is_label(column) else "---:" for column in range(len(head))]
        return "".join(f"| {' | '.join(line)} |\n" for line in [head, rule, *lines])

    def table(self) -> Table:
        """For the terminal."""
        head, *lines = self.texts()
        table = Table(
            title=escape(shown.line(self.title)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for column, name in enumerate(head):
            table.add_column(name, justify="left" if self._is_label(column) else "right")
        for line in lines:
            table.add_row(*(escape(shown.line(cell)) for cell in line))
        return table

    def _is_label(self, column: int) -> bool:
        return column < (1 if self.tall else len(self.labels))


def with_paper(results: Results) -> Results:
    """The same with what the paper reports beside it: forward / backward NME on other images."""
    theirs = published.columns("errors", results.lines["row"].unique())
    return replace(results, beside={f"paper: {name}": texts for name, texts in theirs.items()})


def show(results: Results, how: str) -> None:
    """Print as `text` for the terminal, `md` or `csv`."""
    if how == "text":
        Console(width=10_000).print(results.table())  # a narrow terminal wraps lines, where rich would cut columns
    else:
        print(results.csv() if how == "csv" else results.markdown(), end="")


def _cell(line: dict[Any, Any], figure: Figure) -> str:
    low, high, deviation = (figure.text(line.get(figure.name + end, np.nan)) for end in SPREADS)
    spread = f" [{low}, {high}]" if low != "-" else f" ± {deviation}" if deviation != "-" else ""
    return figure.text(line[figure.name]) + spread


def named(name: str) -> list[str]:
    """The rows of a table of `report.tables` in params.yaml.

    Raises:
        ParamsError: there is no such table.
    """
    tables = params.read(dict[str, list[str]], "report.tables")
    if name not in tables:
        raise ParamsError(
            f"there is no table '{name}': report.tables in params.yaml has {', '.join(tables) or 'none'}."
        )
    return tables[name]


def of_run(choice: Choice) -> Results:
    """The rows as the last `dvc repro` in the current folder left them; a row without metrics has dashes.

    Raises:
        ArtifactError: no row has metrics.
        ParamsError: a protocol or mark-up that the metrics do not have.
    """
    rows = choice.rows or list(params.read(dict[str, Any], "rows"))
    paths = {row: FOLDER / f"{row}.json" for row in rows}
    trees = {row: json.loads(path.read_text()) if path.is_file() else {} for row, path in paths.items()}
    if not any(trees.values()):
        raise ArtifactError(f"{FOLDER}/ has no metrics of the rows {', '.join(rows)}.")
    title, figures = figures_of(list(trees.values()), choice)
    lines = pd.DataFrame([{"row": row, **numbers(tree, figures)} for row, tree in trees.items()])
    return Results(title, ["row"], figures, lines, choice.every)


def over_seeds(lines: pd.DataFrame, labels: list[str], figures: list[Figure]) -> pd.DataFrame:
    """Lines with the same `labels` as one: the mean of each figure, its deviation, and how many `seeds` have figures.

    K has no deviation: it is set, not measured.
    """
    names = [figure.name for figure in figures]
    groups = lines.groupby(labels, sort=False)
    spread = groups[[name for name in names if name != "landmarks"]].std().add_suffix("_sd")
    return groups[names].mean().join(spread).assign(seeds=groups["landmarks"].count()).reset_index()


def figures_of(trees: list[Tree], choice: Choice) -> tuple[str, list[Figure]]:
    """Title and figures for a choice.

    Raises:
        ParamsError: a protocol or mark-up that no tree has.
    """
    protocol = choice.protocol or params.read(tuple[str, ...], "evaluate.protocols")[0]
    there = dict.fromkeys(key for tree in trees for key in tree if pick(tree, f"{key}.rule") is not None)
    why = _unscored(trees, protocol)
    if choice.protocol and protocol not in there:
        reason = why or "see evaluate.protocols"
        raise ParamsError(f"the metrics have no protocol '{protocol}', but {_list(there)}: {reason}.")
    sets = dict.fromkeys(name for tree in trees for name in tree.get(protocol, {}) if name != "rule")
    markup = choice.markup or next((name for name in (*FAVOURITES, *sets) if name in sets), None)
    if choice.markup and markup not in sets:
        reason = f": {why}" if why else ""
        raise ParamsError(f"the metrics have no mark-up '{markup}', but {_list(sets)}{reason}.")
    if markup is None:
        title = f"no annotations were scored by protocol {protocol}: {why or 'NME needs them'}"
    else:
        title = f"{choice.points} landmarks, mark-up {markup}, protocol {protocol}"
    branch = f"{protocol}.{markup}.{choice.points}"
    return title, _every(trees, there, branch) if choice.every else _main(trees, branch)


def _unscored(trees: list[Tree], protocol: str) -> str:
    """Why a protocol lacks figures: each mark-up with its reason, or the one reason where there is no mark-up."""
    found: dict[tuple[str, str], None] = {}
    for tree in trees:
        reasons = pick(tree, f"unscored.{protocol}") or {}
        found |= dict.fromkeys([("", reasons)] if isinstance(reasons, str) else leaves(reasons))
    return "; ".join(f"{path} {why}".strip() for path, why in found)


def _list(names: dict[str, None]) -> str:
    return ", ".join(names) or "none at all"


def _main(trees: list[Tree], branch: str) -> list[Figure]:
    """The figures that matter most; NME once for each number of annotated training images."""
    names = dict.fromkeys(name for tree in trees for name in pick(tree, branch) or {} if name[1:].isdigit())
    ways = ("forward", "backward")
    few = [
        Figure(f"{name}_{way}_nme", f"{branch}.{name}.{way}_nme", f"{way} {name} %", 1)
        for name in names
        for way in ways
    ]
    return [
        Figure("landmarks", "landmarks", "K", 0),
        *(Figure(f"{way}_nme", f"{branch}.all.{way}_nme", f"{way} NME %", 1, interval=True) for way in ways),
        *few,
        Figure("detection_rate", "detection_rate", "detected %", 1, 100),
        Figure("stability", "stability", "stability %", 2),
        Figure("silhouette", "clusters.landmark_silhouette", "silhouette", 3),
    ]


def _every(trees: list[Tree], protocols: dict[str, None], branch: str) -> list[Figure]:
    """All figures that need no annotation, and all of the branch; reasons in words are no figures."""
    paths = dict.fromkeys(path for tree in trees for path, value in leaves(tree) if not isinstance(value, str))
    free = [path for path in paths if path.split(".")[0] not in protocols]
    scored = [path for path in paths if path.startswith(f"{branch}.") and not path.endswith(SPREADS)]
    names = {path: path.removeprefix(f"{branch}.") for path in [*free, *scored]}
    return [Figure(name, path, name, interval=path.endswith("_nme")) for path, name in names.items()]


def numbers(tree: Tree, figures: list[Figure]) -> dict[str, float]:
    """{column: number} of one tree, NaN where there is none; an NME comes with its interval."""
    found = {}
    for figure in figures:
        found[figure.name] = _number(tree, figure.path)
        if figure.interval:
            for end in ("_low", "_high"):
                found[figure.name + end] = _number(tree, figure.path.removesuffix("_nme") + end)
    return found


def _number(tree: Tree, path: str) -> float:
    value = pick(tree, path)
    return np.nan if value is None else float(value)
