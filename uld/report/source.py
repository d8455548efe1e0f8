"""What the page is made of: the artifacts, metrics and curves of a finished run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed_dataclass

from uld.artifacts.files import read_arrays, read_json, read_table, require
from uld.artifacts.index import read_index
from uld.artifacts.landmarks import Landmarks, read_landmarks
from uld.artifacts.predictions import Predictions, read_predictions
from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.evaluate.cases import Inputs, cases, load
from uld.evaluate.nme import forward_errors, image_nme
from uld.evaluate.poses import Poses
from uld.evaluate.protocols import ALL, choose, label
from uld.evaluate.regressors import Regressor
from uld.evaluate.scores import SERIES, TABLES, finite
from uld.images.crops import Crops


@closed_dataclass(frozen=True, config=CLOSED)
class ReportParams:
    """Block `report` of params.yaml."""

    row: str  # the table row that is shown in pictures
    grid: Annotated[int, Field(ge=1)]  # test images in the first picture
    worst: Annotated[int, Field(ge=0)]  # images shown where it fails
    tables: dict[str, list[str]]  # rows of `uld table NAME`


@dataclass(frozen=True)
class Run:
    """A finished run.

    main: the table row in the pictures; inputs, landmarks, regressors: of that row. protocol: whose errors are shown;
    markup: the annotation set of the curves, the one with the most points of those that the protocol scores; "" if
    there is none at all. metrics, plots: of all rows (plots: row -> table name -> lines). health: heading -> name ->
    figures. rounds: method -> round -> figures of its labels, in the order of params.yaml. poses: lines of `Poses`.
    params: the text of params.yaml.
    """

    dataset: str
    main: str
    protocol: str
    markup: str
    inputs: Inputs
    index: pd.DataFrame
    crops: Crops
    landmarks: Landmarks
    regressors: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    plots: dict[str, dict[str, pd.DataFrame]]
    health: dict[str, dict[str, dict[str, Any]]]
    rounds: dict[str, dict[str, dict[str, float]]]
    poses: pd.DataFrame
    params: str

    def series(self, table: str, direction: str) -> dict[str, pd.DataFrame]:
        """Table row -> lines of a curve table for the shown protocol and mark-up; rows without any are left out.

        They are of maps that were fitted on all training images.
        """
        key = {
            "protocol": self.protocol, "set": self.markup, "points": "dense", "rows": label(ALL), "direction": direction
        }  # fmt: skip
        found = {}
        for row, tables in self.plots.items():
            lines = tables[table]
            lines = lines[(lines[list(key)] == pd.Series(key)).all(axis=1)]
            if len(lines):
                found[row] = lines
        return found

    def image_errors(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Scored test images (rows of boxes.csv) and their forward NME in %; both empty without annotations."""
        key = (self.protocol, self.markup, "dense")
        for case in cases(self.inputs, choose((self.protocol,))):
            prefixes = ["/".join([*case.key, label(number), "forward"]) for number in case.protocol.rows]
            if case.key == key and (there := [one for one in prefixes if one in self.regressors]):
                one = Regressor(self.regressors[there[0]], self.regressors[f"{there[0]}_fill"])
                return case.test, 100 * image_nme(forward_errors(case, one))
        return np.empty(0, dtype=np.int64), np.empty(0)


def read(
    chosen: ReportParams,
    rows: list[str],
    rounds: dict[str, str],
    dataset: str,
    protocol: str,
    params: Path,
    poses: Poses,
) -> Run:
    """Read a run below the current folder.

    Args:
        chosen: block `report`.
        rows: names of the table rows.
        rounds: name of each round -> its method.
        dataset: its name, for the title.
        protocol: name of the evaluation protocol to show.
        params: params.yaml.
        poses: of these rounds.

    Raises:
        ParamsError: `chosen.row` is no row.
        ArtifactError: a file of a row is missing, naming the `dvc repro` that makes it.
    """
    if chosen.row not in rows:
        raise ParamsError(f"{params}: report.row: '{chosen.row}' is no row; rows has {', '.join(rows)}.")
    folder = Path("artifacts")
    for row in rows:
        require(folder / "predictions" / f"{row}.h5", f"predict@{row}")
    inputs = load(chosen.row)
    metrics = {row: read_json(Path("metrics") / f"{row}.json", f"evaluate@{row}") for row in rows}
    made_by = f"discover@{chosen.row}"
    return Run(
        dataset=dataset,
        main=chosen.row,
        protocol=protocol,
        markup=_markup(inputs, metrics, protocol),
        inputs=inputs,
        index=read_index(folder / "data" / "index.csv"),
        crops=Crops(folder / "roi" / "crops.zarr"),
        landmarks=read_landmarks(require(folder / "landmarks" / chosen.row / "landmarks.h5", made_by)),
        regressors=read_arrays(folder / "regressors" / f"{chosen.row}.h5", f"regress@{chosen.row}"),
        metrics=metrics,
        plots={row: _plots(row) for row in rows},
        health=_health(rows) | _of_poses(poses),
        rounds=_rounds(rounds),
        poses=poses.lines,
        params=params.read_text(encoding="utf-8"),
    )


def scored(names: list[str], metrics: dict[str, dict[str, Any]], protocol: str) -> list[str]:
    """Those mark-ups that some table row has figures of by the protocol."""
    shown = [tree.get(protocol, {}) for tree in metrics.values()]
    return [name for name in names if any(name in one for one in shown)]


def _markup(inputs: Inputs, metrics: dict[str, dict[str, Any]], protocol: str) -> str:
    """The mark-up of the curves; one without figures only where none has any."""
    names = list(inputs.sets)
    shown = scored(names, metrics, protocol) or names
    return max(shown, key=lambda name: inputs.sets[name].xy.shape[1], default="")


def predictions(row: str) -> Predictions:
    """Predictions of any table row."""
    return read_predictions(Path("artifacts/predictions") / f"{row}.h5")


def _plots(row: str) -> dict[str, pd.DataFrame]:
    folder, made_by = Path("plots") / row, f"evaluate@{row}"
    return {name: read_table(folder / f"{name}.csv", made_by, SERIES, columns) for name, columns in TABLES.items()}


def _rounds(rounds: dict[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, method in rounds.items():
        figures = read_json(Path("metrics/rounds") / f"{name}.json", f"cluster@{name}")
        found.setdefault(method, {})[name] = figures
    return found


def _health(rows: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Heading -> name -> figures: of the backbone and the heads, if they left any, and of each row's clusters."""
    folder = Path("metrics")
    groups = {
        "Backbone": {path.stem: path for path in folder.glob("backbone.json")},
        "Descriptors": {path.stem: path for path in sorted((folder / "starts").glob("*.json"))},
        "Clusters": {row: Path("artifacts/landmarks") / row / "quality.json" for row in rows},
    }
    found = {}
    for title, paths in groups.items():
        trees = {name: read_json(path, f"discover@{name}") for name, path in paths.items()}
        if kept := {name: tree for name, tree in trees.items() if tree}:
            found[title] = kept
    return found


def _of_poses(poses: Poses) -> dict[str, dict[str, dict[str, Any]]]:
    """Heading -> round -> figures of its pose clusters."""
    return {"Pose clusters": finite(poses.figures)} if poses.figures else {}
