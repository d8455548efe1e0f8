"""One round of self-training: the head that its start model becomes when it learns the round's pseudo-labels."""

import sys
from pathlib import Path

from uld import artifacts, detector, methods, params, runtime
from uld.models import frozen


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(detector.RoundParams, f"rounds.{key}")
    kind = methods.load(chosen.step)
    method = kind(params.read(kind.Params, f"steps.{chosen.step}"))
    head = frozen.load(Path(f"artifacts/rounds/{chosen.start}"))
    labels = artifacts.read_labels(Path(f"artifacts/labels/{key}/labels.h5"))
    rng = runtime.rng(params.read(int, "seed"), f"train-{key}")
    method.train(head, labels, rng).save(Path(f"artifacts/rounds/{key}"))


if __name__ == "__main__":
    runtime.run(main)
