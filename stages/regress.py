"""Fit the linear maps between discovered and annotated landmarks of one table row."""

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from uld.artifacts.files import write_arrays
from uld.base import params, stop
from uld.evaluate.cases import cases, load, unscored
from uld.evaluate.protocols import choose
from uld.evaluate.regressors import regress


def main() -> None:
    """Write artifacts/regressors/<row>.h5; without annotations it holds no map."""
    row = sys.argv[1]
    seed = params.read(int, "seed")
    protocols = choose(params.read(tuple[str, ...], "evaluate.protocols"))
    inputs = load(row)
    arrays: dict[str, NDArray[Any]] = {}
    for case in cases(inputs, protocols):
        arrays |= regress(case, seed)
    for key, why in unscored(inputs, protocols).items():
        print(f"{' '.join(key)} is not scored: {why}")
    write_arrays(Path("artifacts/regressors") / f"{row}.h5", arrays)


if __name__ == "__main__":
    stop.run(main)
