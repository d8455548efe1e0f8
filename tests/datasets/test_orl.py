"""The embedded faces."""

from pathlib import Path

import numpy as np
import pytest

from uld.base.errors import DataError
from uld.datasets.index import build
from uld.datasets.orl import Orl, OrlParams

SOURCE = Path(__file__).parents[2] / "data" / "orl"


def test_index_split_and_markup() -> None:
    index, annotations = build(Orl(SOURCE, OrlParams()), seed=5)
    assert (index["status"] == "ok").all() and (index["width"] == 92).all() and (index["height"] == 112).all()
    assert index["split"].value_counts().to_dict() == {"train": 300, "test": 100}
    training = {f"s{n + 1}" for n in np.random.default_rng(0).permutation(40)[:30]}
    assert set(index.loc[index["split"] == "train", "group"]) == training
    assert list(annotations.images) == index["image"].tolist()
    p68, p5 = annotations.sets["p68"], annotations.sets["p5"]
    assert p68.xy.shape == (400, 68, 2) and p5.xy.shape == (400, 5, 2)
    np.testing.assert_allclose(p5.xy[:, 0], p68.xy[:, list(p68.left)].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(p5.xy[:, 2:], p68.xy[:, [30, 48, 54]])
    assert (p5.xy[:, 0, 0] < p5.xy[:, 1, 0]).all()


def test_mean_shape_gives_the_documented_error() -> None:
    """data/orl/README.md: about 23.7 % of the eye distance."""
    index, annotations = build(Orl(SOURCE, OrlParams()), seed=0)
    xy = annotations.sets["p68"].xy
    test = (index["split"] == "test").to_numpy()
    eyes = np.linalg.norm(xy[:, 36:42].mean(1) - xy[:, 42:48].mean(1), axis=1)
    error = np.linalg.norm(xy[test] - xy[~test].mean(0), axis=2).mean(1) / eyes[test]
    assert abs(100 * error.mean() - 23.7) < 0.1


def test_a_wrong_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"landmarks68.csv is missing.*source"):
        build(Orl(tmp_path, OrlParams()), seed=0)
