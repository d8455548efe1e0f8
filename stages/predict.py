"""Find the landmarks of one table row in every image, and pack the detector that `uld predict` loads."""

import sys
from pathlib import Path
from typing import Any

from uld import detector, methods, roi
from uld.artifacts.landmarks import read_landmarks
from uld.artifacts.predictions import write_predictions
from uld.base import params, ranks
from uld.geometry.views import EvaluationWarps, draw
from uld.landmarks.predict import predict
from uld.methods.lines import RowParams
from uld.sources.opened import open_model


def main() -> None:
    key = sys.argv[1]
    row = params.read(RowParams, f"rows.{key}")
    kind = methods.load(row.method)
    block = params.read(kind.Cluster, f"methods.{row.method}.cluster")
    crop = params.read(roi.RoiParams, "roi")
    providers: dict[str, Any] = {
        name: params.read(roi.kind(name).Params, f"roi_providers.{name}") for name in crop.providers
    }
    landmarks = read_landmarks(Path(f"artifacts/landmarks/{key}/landmarks.h5"))
    warps, seed = params.read(EvaluationWarps, "evaluate.warps"), params.read(int, "seed")
    opened = open_model(row.start, lambda size: draw(warps, seed, size))
    predictions = predict(kind(block), landmarks, opened.source, opened.boxes)
    write_predictions(Path(f"artifacts/predictions/{key}.h5"), predictions)
    detector.pack(Path(f"artifacts/detectors/{key}"), row, block, landmarks, crop, providers)


if __name__ == "__main__":
    ranks.led(main)
