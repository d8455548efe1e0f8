"""Score one table row from its cached predictions."""

import sys
from pathlib import Path

from uld.artifacts.files import read_arrays, read_json, write_json, write_table
from uld.base import params, stop
from uld.evaluate.cases import load
from uld.evaluate.protocols import EvaluateParams
from uld.evaluate.scores import TABLES, score


def main() -> None:
    """Write metrics/<row>.json and plots/<row>/{ced,cumulative,landmarks,yaw}.csv."""
    row = sys.argv[1]
    inputs = load(row)
    regressors = read_arrays(Path("artifacts/regressors") / f"{row}.h5", f"regress@{row}")
    quality = read_json(Path("artifacts/landmarks") / row / "quality.json", f"discover@{row}")
    scores = score(inputs, regressors, quality, params.read(EvaluateParams, "evaluate"), params.read(int, "seed"))
    if not inputs.sets:
        print("NME needs annotations and there are none: add landmarks.csv to the source folder (data/README.md).")
    elif not regressors:
        print(f"No protocol can score the annotations: `unscored` in metrics/{row}.json says why.")
    write_json(Path("metrics") / f"{row}.json", scores.tree)
    for name in TABLES:
        write_table(Path("plots") / row / f"{name}.csv", scores.table(name))


if __name__ == "__main__":
    stop.run(main)
