"""Discover the K landmarks of one table row on the training images."""

import sys
from pathlib import Path

import numpy as np

from uld import detector, methods
from uld.artifacts.files import write_json
from uld.artifacts.landmarks import write_landmarks
from uld.base import params, random, ranks
from uld.cluster.quality import of_landmarks


def main() -> None:
    key = sys.argv[1]
    row = params.read(detector.RowParams, f"variants.{key}")
    kind = methods.load(row.step)
    method = kind(params.read(kind.Params, f"steps.{row.step}"))
    boxes, described = detector.cached(row.features, row.start)
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    rng = random.rng(params.read(int, "seed"), f"discover-{row.step}")
    count = params.read(int, "landmarks") if row.landmarks is None else row.landmarks
    found = method.discover(described, rows, count, rng, detector.last_labels(row.start))
    figures = of_landmarks(described, lambda some: method.match(described, found.landmarks, some), rows, rng)
    out = Path(f"artifacts/landmarks/{key}")
    write_landmarks(out / "landmarks.h5", found.landmarks)
    write_json(out / "quality.json", found.quality | figures)


if __name__ == "__main__":
    ranks.led(main)
