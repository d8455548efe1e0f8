"""Pseudo-labels of a round are the exemplars of its training images."""

from typing import Any

import numpy as np
import pytest

from uld import detector
from uld.methods import load
from uld.params import build

BLOCK = {"points": 80, "cap": 100_000, "restarts": 3, "iterations": 40, "refine": False}


def test_labels_are_the_found_landmarks(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", "7")
    kind = load("zeroshot")
    method = kind(build(kind.Params, BLOCK, "steps.zeroshot"))
    rows = np.arange(3, 25)
    landmarks = method.discover(planted, rows, 5, np.random.default_rng(0)).landmarks
    labels = detector.label(method, landmarks, planted, rows)
    found = method.find(planted, landmarks, rows)
    here = np.isfinite(found.xy).all(2)
    assert len(labels.image) == here.sum()
    assert len(np.unique(labels.image * 5 + labels.label)) == len(labels.image)  # one of each in an image
    expected = planted.to_image(rows, found.xy)[here]
    np.testing.assert_allclose(labels.xy, expected, atol=1e-4)
    np.testing.assert_array_equal(labels.image, rows[np.nonzero(here)[0]])
