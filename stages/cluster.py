"""Pseudo-labels of one round: cluster what its start model says and mark each landmark in every training image."""

import sys
from pathlib import Path

from uld import methods
from uld.artifacts.files import write_json
from uld.artifacts.labels import write_labels
from uld.artifacts.landmarks import write_landmarks
from uld.base import params, random, ranks
from uld.methods.base import Task
from uld.methods.lines import RoundParams, landmarks_of
from uld.sources.opened import last_labels, open_model


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(RoundParams, f"rounds.{key}")
    kind = methods.load(chosen.method)
    method = kind(params.read(kind.Cluster, f"methods.{chosen.method}.cluster"))
    opened = open_model(chosen.start)
    rng = random.rng(params.read(int, "seed"), f"discover-{chosen.method}")  # rows discover with the same draw
    count = params.read(int, "landmarks") if chosen.landmarks is None else chosen.landmarks
    count = landmarks_of(count, kind, f"params.yaml: landmarks of rounds.{key}")
    task = Task(opened.source, opened.views.rows, count, rng, last_labels(chosen.start))
    found = method.discover(task)
    marked = method.label(task, found.landmarks)
    out = Path(f"artifacts/labels/{key}")
    write_landmarks(out / "landmarks.h5", found.landmarks)
    write_labels(out / "labels.h5", marked.labels)
    write_json(Path(f"metrics/rounds/{key}.json"), found.quality | marked.health)


if __name__ == "__main__":
    ranks.led(main)
