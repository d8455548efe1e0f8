"""A method that has no rounds of self-training says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.methods.conftest import PARTS, Planted, task
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.methods import load
from uld.methods.base import Training

KMEANS = {"points": 9, "max_points": 99, "restarts": 1, "iterations": 2}
BLOCKS = {"zeroshot": KMEANS | {"refine": True}, "position": KMEANS, "mean_shape": {}}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_method_that_neither_labels_nor_trains(planted: Planted, name: str) -> None:
    kind = load(name)
    method = kind(build(kind.Cluster, BLOCKS[name], f"methods.{name}.cluster"))
    given = task(planted, np.arange(5), PARTS if BLOCKS[name] else 0)
    landmarks = method.discover(given).landmarks
    with pytest.raises(ULDError, match="no rounds of self-training: choose another one in rounds"):
        method.label(given, landmarks)
    none = np.empty(0, np.int64)
    labels = Labels(none, none > 0, none, np.empty((0, 2), np.float32), np.empty(0, np.float32), none > 0, 0)
    absent: Any = None
    training = Training(labels, absent, np.random.default_rng, Path("state.pt"), "round once")
    assert kind.Train is None
    with pytest.raises(ULDError, match="round once: its method trains nothing"):
        kind.train(absent, training, absent)
