"""Pseudo-labels of one round: cluster what its start model describes and mark each landmark in every training image."""

import sys
from pathlib import Path

import numpy as np

from uld import detector, methods
from uld.artifacts.files import write_json
from uld.artifacts.labels import write_labels
from uld.artifacts.landmarks import write_landmarks
from uld.base import params, random, ranks


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(detector.RoundParams, f"rounds.{key}")
    kind = methods.load(chosen.step)
    method = kind(params.read(kind.Params, f"steps.{chosen.step}"))
    boxes, described = detector.cached(chosen.features, chosen.start)
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    rng = random.rng(params.read(int, "seed"), f"discover-{chosen.step}")  # rows discover with the same draw
    previous = detector.last_labels(chosen.start)
    found = method.discover(described, rows, params.read(int, "landmarks"), rng, previous)
    marked = method.label(described, found.landmarks, rows, rng, previous)
    out = Path(f"artifacts/labels/{key}")
    write_landmarks(out / "landmarks.h5", found.landmarks)
    write_labels(out / "labels.h5", marked.labels)
    write_json(Path(f"metrics/rounds/{key}.json"), found.quality | marked.health)


if __name__ == "__main__":
    ranks.led(main)
