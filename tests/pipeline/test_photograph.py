"""The packed detector gives a photograph the landmarks that the pipeline gave it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from smoke.project import Project
from uld.artifacts.predictions import read_predictions


@pytest.mark.parametrize("row", ["zeroshot", "duld", "resting", "duld_pp", "pixels", "mallis_d"])
def test_predict_on_photographs_equals_the_cached_prediction(extended: Project, tmp_path: Path, row: str) -> None:
    cached = read_predictions(extended.root / f"artifacts/predictions/{row}.h5")
    test = cached.split == "test"
    names = list(cached.images[test])
    photographs = [f"photos/{name}" for name in names]
    out = f"{tmp_path}/landmarks.csv"
    extended.uld("predict", f"artifacts/detectors/{row}", *photographs, "--out", out)
    told = pd.read_csv(out)
    assert told["image"].unique().tolist() == photographs
    found = cached.found
    xy = told[["x", "y"]].to_numpy().reshape(len(names), -1, 2)
    score = told["score"].to_numpy().reshape(len(names), -1)
    seen = (told["found"] == "detected").to_numpy().reshape(len(names), -1)
    np.testing.assert_array_equal(seen, np.isfinite(found.score[test]))
    np.testing.assert_allclose(xy, found.filled_xy[test], atol=0.05)
    np.testing.assert_allclose(score, np.where(seen, found.score[test], found.dense_score[test]), atol=1e-3)
