"""The packed detector gives a photograph the landmarks that the pipeline gave it."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from smoke.project import Project
from uld.artifacts import read_predictions


def test_predict_on_photographs_equals_the_cached_prediction(finished: Project, tmp_path: Path) -> None:
    cached = read_predictions(finished.root / "artifacts/predictions/zeroshot.h5")
    names = list(cached.images[cached.split == "test"])
    photographs = [f"photos/{name}" for name in names]
    out = f"{tmp_path}/landmarks.csv"
    finished.run(sys.executable, "-m", "uld.cli", "predict", "artifacts/detectors/zeroshot", *photographs, "--out", out)
    told = pd.read_csv(out)
    assert told["image"].unique().tolist() == photographs
    xy = told[["x", "y"]].to_numpy().reshape(len(names), -1, 2)
    score = told["score"].to_numpy().reshape(len(names), -1)
    np.testing.assert_allclose(xy, cached.dense_xy[cached.split == "test"], atol=0.05)
    np.testing.assert_allclose(score, cached.dense_score[cached.split == "test"], atol=1e-3)
