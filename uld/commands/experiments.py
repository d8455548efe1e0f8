"""The results table over experiments: what DVC kept of `dvc exp run`, grouped by everything but the seed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from uld.base.errors import ArtifactError, ULDError
from uld.commands.table import OVER_SEEDS, Choice, Results, Tree, figures_of, numbers, over_seeds
from uld.report.tables import leaves

Settings = dict[str, str]  # dotted key of params.yaml -> its value as text


@dataclass(frozen=True)
class Run:
    """One run of the project's pipeline.

    code: which code it is of: a commit, or the words of a table of runs. rows: name -> metrics.
    """

    code: str
    settings: Settings
    rows: dict[str, Tree]


def kept_by_dvc() -> list[Run]:
    """The project's runs since the last commit, and that of the commit.

    Raises:
        ULDError: `dvc exp show` fails.
        ArtifactError: no experiment has metrics.
    """
    runs = list(experiments(shown(), place()))
    if not runs:
        raise ArtifactError("no experiment has metrics yet: try `dvc exp run -S seed=1`.")
    return runs


def results(choice: Choice, runs: list[Run]) -> Results:
    """Mean and standard deviation over seeds, a line for each row of the runs.

    Runs that differ in nothing but `seed` share a line; the params in which the lines differ are columns, and so is the
    code where it is not the same.

    Raises:
        ArtifactError: no run has one of the rows.
        ParamsError: a protocol or mark-up that the metrics do not have.
    """
    rows = choice.rows or dict.fromkeys(row for run in runs for row in run.rows)
    found = [(run, row, run.rows[row]) for row in rows for run in runs if row in run.rows]
    if not found:
        raise ArtifactError(f"no run has metrics of the rows {', '.join(rows)}.")
    title, figures = figures_of([tree for _, _, tree in found], choice)
    taken = {"row", "seeds", "code", *(figure.name for figure in figures)}  # `landmarks` is a param and a figure
    settings = pd.DataFrame([run.settings for run, _, _ in found]).fillna("-")
    settings = settings.rename(columns={key: f"params.{key}" for key in taken}).assign(
        code=[r.code for r, _, _ in found]
    )
    differ = [key for key in settings.columns if key != "seed" and settings[key].nunique() > 1]
    scores = pd.DataFrame([{"row": row, **numbers(tree, figures)} for _, row, tree in found])
    # a commit and the experiment that it was made from are one run
    table = pd.concat([settings, scores], axis=1).drop_duplicates([*settings.columns, "row"])
    lines = over_seeds(table, [*differ, "row"], figures)
    return Results(f"{title}; {OVER_SEEDS}", [*differ, "row", "seeds"], figures, lines, choice.every)


def grid(row: str, x: str, y: str, choice: Choice) -> tuple[str, pd.DataFrame]:
    """Errors of one row over the values of two params, means over seeds (as figure 8 of D-ULD++).

    Args:
        row: of the results table.
        x, y: dotted keys of params.yaml, in which the experiments may differ; of other keys, in `seed` only. Those in
            which one of the two is null are left out, as the commit may be from which they come.
        choice: of the errors.

    Returns:
        What is shown; and a line a cell, sorted: `x`, `y` (numbers where all are), `forward`, `backward`, `seeds` and
        `label`, the text of both errors.

    Raises:
        ULDError: the experiments differ in other params too, or not in these. As `results` else.
    """
    kept = results(replace(choice, rows=[row], every=False), kept_by_dvc())
    found, names = kept.lines, {key.removeprefix("params."): key for key in kept.labels[:-2]}
    others = [name for name in names if name not in (x, y)]
    if others or x not in names or y not in names:
        raise ULDError(
            f"a grid of {x} and {y} needs experiments that differ in both and in nothing else but the seed: these "
            f"differ in {', '.join(names) or 'nothing'}. `dvc exp remove` takes others out."
        )
    found = found[~found[[names[x], names[y]]].isin(["null", "-"]).any(axis=1)]
    cells = pd.DataFrame({"x": found[names[x]], "y": found[names[y]]}).apply(_numbers)
    cells = cells.assign(forward=found["forward_nme"], backward=found["backward_nme"], seeds=found["seeds"])
    labels = [f"{one.forward:.1f} / {one.backward:.1f}" for one in cells.itertuples()]
    return f"{row}: {kept.title}", cells.assign(label=labels).sort_values(["y", "x"], ignore_index=True)


def _numbers(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    return values if numbers.isna().any() else numbers


def shown() -> Any:
    """The tree of `dvc exp show --json`.

    Raises:
        ULDError: it fails.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "exp", "show", "--json"], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise ULDError(f"`dvc exp show` failed: {reason[-1].removeprefix('ERROR: ')}")
    return json.loads(done.stdout)


def place() -> PurePosixPath:
    """The current folder, relative to the DVC project that it is part of; DVC names files so."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)
    return PurePosixPath(here.relative_to(root).as_posix())


def experiments(tree: Any, project: PurePosixPath) -> Iterator[Run]:
    """Runs of each commit and experiment; queued and failed ones have no metrics and are left out.

    So are running ones, whose params are theirs but whose metrics still are those that they began with. The workspace
    is left out too: its params may have been edited after its metrics were made.

    Args:
        tree: of `shown`.
        project: a folder as of `place`; DVC shows the metrics of every project, and these are of one.
    """
    for commit in tree:
        revisions = [commit] if commit["rev"] != "workspace" else []
        done = [one for one in commit["experiments"] or [] if (one.get("executor") or {}).get("state") != "running"]
        revisions += [revision for one in done for revision in one["revs"] or []]
        for data in (revision["data"] for revision in revisions if revision["data"]):
            run = _run(commit["rev"][:7], data, project)
            if run.rows:
                yield run


def _run(code: str, data: Any, project: PurePosixPath) -> Run:
    files = {PurePosixPath(name): node["data"] for name, node in data["metrics"].items() if "data" in node}
    trees = {path.stem: tree for path, tree in files.items() if path.parent == project / "metrics"}
    params = data["params"].get(str(project / "params.yaml"), {}).get("data", {})
    settings = {"seed": "-"} | {key: _text(value) for key, value in leaves(params)}
    if os.path.isabs(settings.get("source", "")):  # a queued run names by its full path what is not in Git
        settings["source"] = os.path.relpath(settings["source"])
    rows = {name: one for name, one in trees.items() if "landmarks" in one}  # not the backbone's
    return Run(code, settings, rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
