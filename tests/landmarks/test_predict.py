"""A row's landmarks in all images of a data set, and in the test images under the evaluation's warps."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.methods.conftest import MIRROR, PARTS, PLAIN, TURN, Planted
from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.geometry.frames import Rows
from uld.landmarks.predict import placed, predict
from uld.methods.base import Discovery, Method, Task
from uld.sources.source import Source
from uld.sources.views import View

IMAGES = 7


class Known(Method):
    """Finds the planted parts; the first one of odd images is not detected, and all know their pose."""

    def __init__(self, params: Any) -> None:
        self.asked: list[tuple[str, View, list[int]]] = []

    def discover(self, task: Task) -> Discovery:
        raise NotImplementedError

    def find(self, source: Any, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        self.asked.append(("find", view, rows.tolist()))
        dense = self._where(source, rows, view)
        xy, score = dense.copy(), np.ones(dense.shape[:2], np.float32)
        xy[rows % 2 == 1, 0], score[rows % 2 == 1, 0] = np.nan, np.nan
        margin = np.zeros(len(rows), np.float32)
        return Found(xy, score, dense, np.ones_like(score), rows, rows % 3, margin)

    def match(self, source: Any, landmarks: Landmarks, rows: Rows, view: View) -> np.ndarray:
        self.asked.append(("match", view, rows.tolist()))
        return self._where(source, rows, view)

    def _where(self, source: Planted, rows: Rows, view: View) -> np.ndarray:
        return source.to_cells(rows, source.to_image(rows, source.centres[rows], PLAIN), view)


def landmarks() -> Landmarks:
    empty = np.empty((0, 3), np.float16)
    return Landmarks(
        np.zeros((PARTS, 3), np.float32),
        np.ones(PARTS, np.int64),
        np.zeros((PARTS, 0), np.int64),
        np.zeros((PARTS, 0, 2), np.float32),
        empty,
        np.empty(0, np.int64),
    )


@pytest.fixture
def source() -> Any:
    planted = Planted(IMAGES)
    planted.views.evaluation = [TURN, PLAIN, TURN]
    return planted


def boxes(test: list[int]) -> pd.DataFrame:
    split = ["test" if n in test else "train" for n in range(IMAGES)]
    return pd.DataFrame({"image": [f"{n}.png" for n in range(IMAGES)], "split": split})


@pytest.mark.parametrize("batch", ["2", "32"])
def test_all_images_in_pixels(source: Any, monkeypatch: pytest.MonkeyPatch, batch: str) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    method = Known(None)
    found = predict(method, landmarks(), source, boxes([1, 4, 6]))
    truth = source.to_image(np.arange(IMAGES), source.centres, PLAIN)
    np.testing.assert_allclose(found.found.dense_xy, truth, atol=1e-4)
    absent = np.isnan(found.found.xy).any(2)
    assert absent[1::2, 0].all() and absent.sum() == 3
    np.testing.assert_allclose(found.found.filled_xy, truth, atol=1e-4)
    assert found.images.tolist() == [f"{n}.png" for n in range(IMAGES)] and found.split[1] == "test"
    assert found.found.points is not None and found.found.pose is not None  # what the method gives beside goes along
    assert found.found.points.tolist() == list(range(IMAGES)) and found.found.pose.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert {view for kind, view, _ in method.asked if kind == "find"} == {PLAIN}
    # test images alone are warped, each place moved back into the photograph
    assert found.warped.rows.tolist() == [1, 4, 6] and found.warped.xy.shape == (3, 3, PARTS, 2)
    np.testing.assert_allclose(found.warped.xy, np.repeat(truth[[1, 4, 6], None], 3, 1), atol=1e-4)
    warped = [rows for kind, _, rows in method.asked if kind == "match"]
    assert [row for rows in warped for row in rows] == [1, 4, 6] * 3
    assert max(map(len, warped)) <= int(batch)


def test_without_test_images_or_warps(source: Any) -> None:
    found = predict(Known(None), landmarks(), source, boxes([]))
    assert found.warped.xy.shape == (0, 3, PARTS, 2)
    source.views.evaluation = []
    found = predict(Known(None), landmarks(), source, boxes([2]))
    assert found.warped.rows.tolist() == [2] and found.warped.xy.shape == (1, 0, PARTS, 2)


def test_a_method_that_has_no_cheaper_match(source: Any) -> None:
    """Its dense matches are those of `find`."""

    class Plain(Known):
        def match(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> np.ndarray:
            return Method.match(self, source, landmarks, rows, view)

    one, other = (kind(None).match(source, landmarks(), np.arange(3), MIRROR) for kind in (Plain, Known))
    np.testing.assert_array_equal(one, other)


def test_a_batch_in_pixels(source: Any) -> None:
    rows = np.array([5, 2])
    found = placed(Known(None), landmarks(), source, rows)
    truth = source.to_image(rows, source.centres[rows], PLAIN)
    np.testing.assert_allclose(found.dense_xy, truth, atol=1e-4)
    assert np.isnan(found.xy[0, 0]).all() and np.isfinite(found.xy[1]).all()
