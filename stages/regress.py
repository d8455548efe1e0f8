"""Fit the linear maps between discovered and annotated landmarks of one table row."""

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from uld.artifacts.files import write_arrays
from uld.base import params, stop
from uld.evaluate.cases import cases, load
from uld.evaluate.protocols import choose
from uld.evaluate.regressors import label, regress


def main() -> None:
    """Write artifacts/regressors/<row>.h5; without annotations it holds no map."""
    row = sys.argv[1]
    seed = params.read(int, "seed")
    protocols = choose(params.read(tuple[str, ...], "evaluate.protocols"))
    arrays: dict[str, NDArray[Any]] = {}
    for case in cases(load(row), protocols):
        maps = regress(case, seed)
        arrays |= maps
        for number in map(label, case.protocol.rows):
            if "/".join([*case.key, number, "train"]) not in maps:
                print(f"{' '.join(case.key)}: {number} left out, only {len(case.pool)} training images are annotated")
    write_arrays(Path("artifacts/regressors") / f"{row}.h5", arrays)


if __name__ == "__main__":
    stop.run(main)
