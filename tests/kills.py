"""Kill stages of the smoke project at random moments, run each again, and compare all its outputs with those of before.

    python tests/kills.py                                 # 100 moments, over all stages in turn
    python tests/kills.py --moments 20 --seed 3 --stages features@trained train@duld-1

Outputs are removed before each start, as DVC does. Between the kill and the second run no file may stand under its
final name with anything but its final bytes. Where something was lost the exit code is 1. Leave the code alone while it
runs: the second runs are of the working tree.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoke.project import Project
from uld.base import params, stop

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
Files = dict[str, bytes]


@dataclass(frozen=True)
class Kill:
    """What came of one: the signal came so many seconds after the start, and how the process ended.

    `wrong` names files that were not what they should be, after the kill or after the second run.
    """

    stage: str
    signal: str
    seconds: float
    code: int
    wrong: list[str]

    def __str__(self) -> str:
        how = f"{self.signal} after {self.seconds:.2f} s, exit code {self.code}"
        return f"{self.stage}: {how}: {'WRONG: ' + ', '.join(self.wrong) if self.wrong else 'the same bytes'}"


def kills(project: Project, stages: list[str], count: int, seed: int) -> Iterator[Kill]:
    """Kill stages of a finished project in turn, `count` times in all."""
    rng = random.Random(seed)
    lasting = {stage: undisturbed(project, stage) for stage in stages}
    for n in range(count):
        stage = stages[n % len(stages)]
        yield kill(project, stage, rng.choice(SIGNALS), rng.uniform(0, lasting[stage]))


def kill(project: Project, stage: str, number: signal.Signals, seconds: float) -> Kill:
    """Start a stage, send it a signal, run it again, and look at its outputs after both."""
    before = taken(project, stage)
    process = start(project, stage)
    time.sleep(seconds)
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    left = {name: data for name, data in files(project, stage).items() if not hidden(name)}
    wrong = [f"{name} (after the kill)" for name, data in left.items() if before.get(name) != data]
    if "Traceback" in said and number != signal.SIGKILL:
        wrong.append("a traceback")
    taken(project, stage)
    project.stages(stage)
    after = files(project, stage)
    wrong += [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return Kill(stage, number.name, seconds, process.returncode, wrong)


def undisturbed(project: Project, stage: str) -> float:
    """Seconds that a stage takes as a process of its own, start and all."""
    taken(project, stage)
    began = time.perf_counter()
    process = start(project, stage)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return time.perf_counter() - began


def start(project: Project, stage: str) -> Any:
    """A stage in a process of its own, as DVC starts it."""
    return project.start(sys.executable, "-m", "uld.stage", *stage.split("@"))


def taken(project: Project, stage: str) -> Files:
    """The outputs of a stage, which are gone afterwards."""
    found = files(project, stage)
    for path in outputs(project, stage):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def files(project: Project, stage: str) -> Files:
    """The outputs of a stage that are there: name below the project -> content."""
    inside = [path for out in outputs(project, stage) for path in (out, *sorted(out.rglob("*"))) if path.is_file()]
    return {path.relative_to(project.root).as_posix(): path.read_bytes() for path in inside}


def outputs(project: Project, stage: str) -> list[Path]:
    """What dvc.yaml calls the outputs, metrics and plots of a stage."""
    name, _, key = stage.partition("@")
    body = params.load(project.root / "dvc.yaml")["stages"][name]
    body = body.get("do", body)
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in body.get(kind, [])]
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [project.root / one.replace("${key}", key) for one in names]


def hidden(name: str) -> bool:
    """Whether a file has a name that nothing reads: it is one that was being written."""
    return any(part.startswith(".") for part in name.split("/"))


def main() -> None:
    """Make the project, kill its stages, and say what came of it."""
    parser = argparse.ArgumentParser(description="Kill stages at random moments and compare what they make.")
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stages", nargs="+", help="as train@duld-1; all of them if none is named")
    asked = parser.parse_args()
    os.environ |= {"ULD_DEVICE": os.environ.get("ULD_DEVICE", "cpu"), "ULD_THREADS": "1"}  # as in the processes
    with tempfile.TemporaryDirectory() as folder:
        project = Project.export(Path(folder, "project"))
        project.stages(*project.order())
        wrong = 0
        for number, one in enumerate(kills(project, asked.stages or project.order(), asked.moments, asked.seed), 1):
            print(f"{number} of {asked.moments}: {one}", flush=True)
            wrong += bool(one.wrong)
    print(f"{asked.moments - wrong} of {asked.moments} ended in the same bytes (seed {asked.seed})")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    stop.run(main)
