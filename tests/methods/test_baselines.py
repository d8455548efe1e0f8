"""The trivial rows: fixed places, and no landmark at all."""

from pathlib import Path

import numpy as np

from tests.methods.conftest import PLAIN, Planted, task
from uld.artifacts.landmarks import read_landmarks, write_landmarks
from uld.base.params import build
from uld.methods import load


def test_position_is_blind_to_the_image(planted: Planted) -> None:
    kind = load("position")
    block = {"points": 50, "max_points": 10_000, "restarts": 3, "iterations": 50}
    method = kind(build(kind.Cluster, block, "methods.position.cluster"))
    discovery = method.discover(task(planted, np.arange(40), 4))
    assert not planted.asked  # no descriptor was read
    found = method.find(planted, discovery.landmarks, np.arange(40, 60), PLAIN)
    assert found.xy.shape == (20, 4, 2) and (found.score == 1).all()
    assert (found.xy == found.xy[0]).all() and (found.dense_xy == found.xy).all()
    # four clusters of an even square are its quarters
    corners = sorted(map(tuple, np.round((found.xy[0] - [7.5, 7.0]) / 3.8)))
    assert corners == [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def test_mean_shape_has_no_landmark(planted: Planted, tmp_path: Path) -> None:
    kind = load("mean_shape")
    method = kind(build(kind.Cluster, {}, "methods.mean_shape.cluster"))
    discovery = method.discover(task(planted, np.arange(40), 0))
    write_landmarks(tmp_path / "landmarks.h5", discovery.landmarks)
    landmarks = read_landmarks(tmp_path / "landmarks.h5")
    found = method.find(planted, landmarks, np.arange(5), PLAIN)
    assert found.xy.shape == (5, 0, 2) and found.score.shape == (5, 0)
    assert found.dense_xy.shape == (5, 0, 2) and found.dense_score.shape == (5, 0)
    assert discovery.quality == {} and not planted.asked
