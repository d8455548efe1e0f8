"""Scores of landmarks as they are found, on images whose halves differ."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from uld.landmarks import scores
from uld.methods.base import Task
from uld.sources.views import View

PLAIN = View(np.eye(2, 3), flipped=False)


class Halves:
    """Images whose left half has one descriptor and whose right half has another."""

    views = SimpleNamespace(plain=PLAIN)

    def describe(self, rows: np.ndarray, view: View) -> torch.Tensor:
        assert view is PLAIN
        maps = torch.zeros(len(rows), 2, 4, 8)
        maps[:, 0, :, :4], maps[:, 1, :, 4:] = 3, 5
        return maps


def task(rows: np.ndarray) -> Task:
    source: Any = Halves()
    return Task(source, rows, 2, np.random.default_rng(1))


def at(x0: np.ndarray, x1: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Two landmarks an image, at x0 and x1 of its row."""
    return lambda rows: np.stack([np.stack([x[rows], 0 * x[rows] + 1], 1) for x in (x0, x1)], 1).astype(np.float32)


def test_landmarks_that_stay_on_their_half_are_apart() -> None:
    rows, rng = np.arange(30), np.random.default_rng(0)
    left, right = rng.uniform(0, 2.9, 30), rng.uniform(4.1, 7, 30)
    told = scores.of_landmarks(task(rows), at(left, right))
    assert told["landmark_silhouette"] == pytest.approx(1)
    mixed = scores.of_landmarks(task(rows), at(rng.permuted(left + 4 * (rows % 2)), right))
    assert mixed["landmark_silhouette"] < 0.5 and mixed["landmark_calinski_harabasz"] < 100


def test_landmarks_of_some_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "SAMPLE", 10)
    asked: list[int] = []

    def find(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return np.tile(np.float32([[[1, 1], [6, 1]]]), (len(rows), 1, 1))

    scores.of_landmarks(task(np.arange(100, 130)), find)
    assert len(set(asked[1:])) == 5 and min(asked) >= 100


def test_no_landmarks_no_scores() -> None:
    none = lambda rows: np.zeros((len(rows), 0, 2), np.float32)  # noqa: E731
    assert scores.of_landmarks(task(np.arange(5)), none) == {}
