"""A step that is no round of self-training says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import build
from uld.methods import load
from uld.methods.base import Training

KMEANS = {"points": 9, "cap": 99, "restarts": 1, "iterations": 2}
BLOCKS = {"zeroshot": KMEANS | {"refine": True}, "position": KMEANS, "mean_shape": {}}


@pytest.mark.parametrize("step", BLOCKS)
def test_a_step_that_neither_labels_nor_trains(planted: Any, step: str) -> None:
    kind = load(step)
    method = kind(build(kind.Params, BLOCKS[step], f"steps.{step}"))
    rows = np.arange(5)
    landmarks = method.discover(planted, rows, 4 if BLOCKS[step] else 0, np.random.default_rng(0)).landmarks
    with pytest.raises(ULDError, match="no round of self-training: choose another one in rounds"):
        method.label(planted, landmarks, rows, np.random.default_rng(0))
    none = np.empty(0, np.int64)
    labels = Labels(none, none, none, np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, bool))
    absent: Any = None
    training = Training(labels, absent, np.random.default_rng, Path("state.pt"), "round once")
    with pytest.raises(ULDError, match="round once: its step trains nothing"):
        method.train(absent, training)
