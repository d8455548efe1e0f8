"""Discover the K landmarks of one table row on the training images."""

import sys
from pathlib import Path

from uld import methods
from uld.artifacts.files import write_json
from uld.artifacts.landmarks import write_landmarks
from uld.base import params, random, ranks
from uld.landmarks.scores import of_landmarks
from uld.methods.base import Task
from uld.methods.lines import RowParams, landmarks_of
from uld.sources.opened import last_labels, open_model


def main() -> None:
    key = sys.argv[1]
    row = params.read(RowParams, f"rows.{key}")
    kind = methods.load(row.method)
    method = kind(params.read(kind.Cluster, f"methods.{row.method}.cluster"))
    opened = open_model(row.start)
    rng = random.rng(params.read(int, "seed"), f"discover-{row.method}")
    count = params.read(int, "landmarks") if row.landmarks is None else row.landmarks
    count = landmarks_of(count, kind, f"params.yaml: landmarks of rows.{key}")
    task = Task(opened.source, opened.views.rows, count, rng, last_labels(row.start))
    found = method.discover(task)
    figures = of_landmarks(task, lambda some: method.match(task.source, found.landmarks, some, opened.views.plain))
    out = Path(f"artifacts/landmarks/{key}")
    write_landmarks(out / "landmarks.h5", found.landmarks)
    write_json(out / "quality.json", found.quality | figures)


if __name__ == "__main__":
    ranks.led(main)
