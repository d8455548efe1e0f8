"""Feature extraction alone and beside two busy programs, with the threads as stages set them and in other ways.

A thread that waits for the others can spin or sleep. Spinning is quicker on idle cores; beside other work it takes
their time. The runtime of the threads reads its settings when it starts, so each way is a process of its own.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import bench_features
import numpy as np
import torch
from timing import run

from uld.base import params, random, runtime
from uld.diffusion import training
from uld.diffusion.extractor import Extractor, ReadoutParams

BUSY = 2  # programs that compute without a pause
TODAY = {"GOMP_SPINCOUNT": "1000"}  # as uld/base/early.py sets it
WAYS: dict[str, dict[str, str]] = {
    "as stages do": TODAY,
    "sleeping": TODAY | {"OMP_WAIT_POLICY": "PASSIVE"},
    "spinning": {},
    "one thread": TODAY | {"ULD_THREADS": "1"},
}
SETTINGS = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"}


class Extraction:
    """A process that extracts features when it is asked to, with its threads set in one of the ways."""

    def __init__(self, way: dict[str, str], small: bool) -> None:
        """Start it; it loads while others do."""
        kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import bench_busy; bench_busy.serve({small})"],
            env=kept | {"PYTHONPATH": path} | way,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self) -> float:
        """How long one extraction takes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """It waits for no more questions."""
        self._process.communicate()


def serve(small: bool) -> None:
    """Extract features with the small model of params.yaml for each line that comes in; the first time is not timed."""
    torch.set_num_threads(runtime.threads())
    config = params.read(training.TrainParams, "backbones.tiny", bench_features.PARAMS)
    readout = params.read(ReadoutParams, "readout", bench_features.PARAMS)
    extractor = Extractor(bench_features.backbone(config), readout, seed=0)
    shape = (2 if small else 64, 3, config.image_size, config.image_size)
    images = torch.from_numpy(random.rng(0, "bench-busy").random(shape, dtype=np.float32))
    extractor(images[:2])  # loads and allocates
    for _ in sys.stdin:
        began = time.perf_counter()
        for part in images.split(runtime.batch_size()):
            extractor(part)
        print(time.perf_counter() - began, flush=True)


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many programs that compute until the block ends."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main(small: bool) -> None:
    processes = {name: Extraction(way, small) for name, way in WAYS.items()}
    found: dict[tuple[str, int], list[float]] = {(name, busy): [] for name in WAYS for busy in (0, BUSY)}
    for process in processes.values():
        process.seconds()  # it has loaded now
    for _ in range(1 if small else 5):  # interleaved, so that other load falls on all alike
        for busy in (0, BUSY):
            with beside(busy):
                for name, process in processes.items():
                    found[name, busy].append(process.seconds())
    for process in processes.values():
        process.end()
    report({key: median(values) for key, values in found.items()})


def report(middle: dict[tuple[str, int], float]) -> None:
    """Print the median seconds of each way and number of programs beside it."""
    cores = os.cpu_count() or 1
    print(f"busy: {runtime.threads()} threads on {cores} cores; {BUSY} other programs leave a share of the machine")
    for name in WAYS:
        alone, crowded = middle[name, 0], middle[name, BUSY]
        print(f"busy: {name}: {alone:.4g} s alone, {crowded:.4g} s beside them: {crowded / alone:.2f} times as long")
    for busy, where in ((0, "alone"), (BUSY, "beside them")):
        for name in list(WAYS)[1:]:
            ratio = middle["as stages do", busy] / middle[name, busy]
            print(f"busy: {name}, {where}: RATIO {ratio:.2f} x against as stages do")


if __name__ == "__main__":
    run(main)
