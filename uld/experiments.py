"""The results table over experiments: what DVC kept of `dvc exp run`, grouped by everything but the seed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from uld.errors import ArtifactError, ULDError
from uld.report.tables import leaves
from uld.table import Choice, Results, Tree, figures_of, numbers

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
    groups = table.groupby([*differ, "row"], sort=False)
    names = [figure.name for figure in figures]
    scattered = [name for name in names if name != "landmarks"]  # K is set, not measured
    lines = (
        groups[names].mean().join(groups[scattered].std().add_suffix("_sd")).assign(seeds=groups.size()).reset_index()
    )
    return Results(f"{title}; mean ± deviation over seeds", [*differ, "row", "seeds"], figures, lines, choice.every)


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
