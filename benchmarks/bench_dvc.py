"""DVC's own work a stage on the graph of dvc.yaml: a whole `dvc repro` less the seconds of the stages' commands."""

import re
import resource
import tempfile
import time
from pathlib import Path

from timing import run
from toy import Toy, short

TARGET = 1.0  # seconds a stage


def main(small: bool) -> None:
    """A first run, one after an edit of params that re-runs everything, and one that has nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        toy = Toy.make(Path(folder) / "toy", **(short(rounds=1, rows=1) if small else short()))
        code = toy.seconds("code")  # the other commands only write a file
        for name, words in {"first run": (), "every stage again": ("--force",), "nothing to do": ()}.items():
            began, busy = time.perf_counter(), processor()
            ran = len(re.findall(r"Running stage", toy.dvc("repro", *words)))
            own = time.perf_counter() - began - code * bool(ran)
            busy = processor() - busy  # of DVC and `code`: on a busy machine it says more than the clock
            stages, size = lock(toy)
            print(
                f"dvc: {name}: {own:.3g} s, {own / stages:.3g} s a stage of {stages} "
                f"(processor {busy / stages:.3g} s), dvc.lock {size:.0f} kB   "
                f"RATIO {TARGET * stages / own:.2f} x against {TARGET:g} s a stage"
            )


def processor() -> float:
    """Seconds of processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def lock(toy: Toy) -> tuple[int, float]:
    """Stages in dvc.lock, and its size in kB."""
    text = (toy.root / "dvc.lock").read_text()
    return len(re.findall(r"^  [\w@-]+:$", text, re.MULTILINE)), len(text) / 1000


if __name__ == "__main__":
    run(main)
