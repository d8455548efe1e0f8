"""The results table over experiments: what DVC kept of `dvc exp run`, grouped by everything but the seed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from uld.base.errors import ArtifactError, ULDError
from uld.commands.table import OVER_SEEDS, Choice, Results, Tree, figures_of, numbers, over_seeds
from uld.report.tables import leaves

Settings = dict[str, str]  # dotted key of params.yaml -> its value as text


def results(choice: Choice) -> Results:
    """Mean and standard deviation over seeds, a line for each row of each experiment since the last commit.

    The last commit counts as an experiment. Runs that differ in nothing but `seed` share a line; the params in which
    the lines differ are columns.

    Raises:
        ULDError: `dvc exp show` fails.
        ArtifactError: no experiment has metrics.
        ParamsError: a protocol or mark-up that the metrics do not have.
    """
    runs = [
        (settings, row, trees[row])
        for settings, trees in experiments(shown())
        for row in choice.rows or trees
        if row in trees
    ]
    if not runs:
        raise ArtifactError("no experiment has metrics yet: try `dvc exp run -S seed=1`.")
    title, figures = figures_of([tree for _, _, tree in runs], choice)
    taken = {"row", "seeds", *(figure.name for figure in figures)}  # `landmarks` is a param and a figure
    settings = pd.DataFrame([one for one, _, _ in runs]).fillna("-")
    settings = settings.rename(columns={key: f"params.{key}" for key in taken})
    differ = [key for key in settings.columns if key != "seed" and settings[key].nunique() > 1]
    scores = pd.DataFrame([{"row": row, **numbers(tree, figures)} for _, row, tree in runs])
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
    kept = results(replace(choice, rows=[row], every=False))
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


def experiments(tree: Any) -> Iterator[tuple[Settings, dict[str, Tree]]]:
    """(params, {row: metrics}) of each commit and experiment; queued and failed ones have no metrics and are left out.

    So are running ones, whose params are theirs but whose metrics still are those that they began with. The workspace
    is left out too: its params may have been edited after its metrics were made.
    """
    for commit in tree:
        revisions = [commit] if commit["rev"] != "workspace" else []
        done = [one for one in commit["experiments"] or [] if (one.get("executor") or {}).get("state") != "running"]
        revisions += [revision for one in done for revision in one["revs"] or []]
        for data in (revision["data"] for revision in revisions if revision["data"]):
            trees = {PurePosixPath(name).stem: node["data"] for name, node in data["metrics"].items() if "data" in node}
            rows = {name: one for name, one in trees.items() if "landmarks" in one}  # not the backbone's, not a head's
            if rows:
                params = leaves(data["params"].get("params.yaml", {}).get("data", {}))
                yield {"seed": "-"} | {key: _text(value) for key, value in params}, rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
