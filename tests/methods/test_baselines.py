"""The trivial rows: fixed places, and no landmark at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uld.artifacts.landmarks import read_landmarks, write_landmarks
from uld.base.params import build
from uld.methods import STEPS, load
from uld.methods.base import Method


def test_position_is_blind_to_the_image(planted: Any) -> None:
    kind = load("position")
    block = {"points": 50, "cap": 10_000, "restarts": 3, "iterations": 50}
    method = kind(build(kind.Params, block, "steps.position"))
    discovery = method.discover(planted, np.arange(40), 4, np.random.default_rng(0))
    assert not planted.asked  # no descriptor was read
    found = method.find(planted, discovery.landmarks, np.arange(40, 60))
    assert found.xy.shape == (20, 4, 2) and (found.score == 1).all()
    assert (found.xy == found.xy[0]).all() and (found.dense_xy == found.xy).all()
    # four clusters of an even square are its quarters
    corners = sorted(map(tuple, np.round((found.xy[0] - [7.5, 7.0]) / 3.8)))
    assert corners == [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def test_mean_shape_has_no_landmark(planted: Any, tmp_path: Path) -> None:
    kind = load("mean_shape")
    method = kind(build(kind.Params, {}, "steps.mean_shape"))
    discovery = method.discover(planted, np.arange(40), 0, np.random.default_rng(0))
    write_landmarks(tmp_path / "landmarks.h5", discovery.landmarks)
    landmarks = read_landmarks(tmp_path / "landmarks.h5")
    found = method.find(planted, landmarks, np.arange(5))
    assert found.xy.shape == (5, 0, 2) and found.score.shape == (5, 0)
    assert found.dense_xy.shape == (5, 0, 2) and found.dense_score.shape == (5, 0)
    assert discovery.quality == {} and not planted.asked


@pytest.mark.parametrize("name", STEPS)
def test_table(name: str) -> None:
    kind = load(name)
    assert issubclass(kind, Method) and isinstance(kind.Params, type)
