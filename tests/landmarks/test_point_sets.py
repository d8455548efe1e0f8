"""Points of images as sets, and what a round is trained on."""

from typing import Any

import numpy as np
import pytest

from tests.methods.conftest import MIRROR, PARTS, PLAIN, Planted
from uld.artifacts.found import Found
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.detect import PeakParams
from uld.landmarks.point_sets import detections, of_found, padded, to_labels

ROWS = np.arange(2, 20)
PEAKS = {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 8}


@pytest.fixture
def planted() -> Planted:
    return Planted(20)


def peaks(**changes: Any) -> PeakParams:
    return build(PeakParams, PEAKS | changes, "detect")


def test_batches_become_sets() -> None:
    xy = np.arange(10, dtype=np.float32).reshape(5, 2)
    score = np.arange(5, dtype=np.float32)
    parts = [(np.array([3, 4]), np.array([0, 0, 1]), xy[:3], score[:3]),
             (np.array([9]), np.array([], int), xy[:0], score[:0]),
             (np.array([11, 12]), np.array([1, 1]), xy[3:], score[3:])]  # fmt: skip
    found = padded(np.array([3, 4, 9, 11, 12]), PLAIN, parts)
    assert found.counts.tolist() == [2, 1, 0, 0, 2] and found.xy.shape == (5, 2, 2)
    np.testing.assert_array_equal(found.xy[[0, 0, 1, 4, 4], [0, 1, 0, 0, 1]], xy)
    np.testing.assert_array_equal(found.detected, np.isfinite(found.xy).all(2))
    none = padded(np.array([3]), PLAIN, parts[1:2])
    assert none.xy.shape == (1, 0, 2) and none.counts.tolist() == [0]


@pytest.mark.parametrize("view", [PLAIN, MIRROR])
def test_detections_are_the_parts(planted: Planted, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.heights[5, :, 2] = 0.1
    planted.heights[7] = 0.1
    for batch in ("32", "5"):
        monkeypatch.setenv("ULD_BATCH", batch)
        found = detections(planted, ROWS, view, peaks(), None)  # type: ignore[arg-type]
        want = planted.to_cells(ROWS, planted.to_image(ROWS, planted.centres[ROWS]), view)
        assert found.counts.tolist() == [{5: 3, 7: 0}.get(row, PARTS) for row in ROWS]
        whole = ~np.isin(ROWS, [5, 7])
        gap = np.linalg.norm(found.xy[whole, :, None] - want[whole, None], axis=3)
        assert gap.min(1).max() < 0.4 and gap.min(2).max() < 0.4 and (np.diff(found.score[whole]) <= 0).all()


def test_no_detection_and_many_heat_maps(planted: Planted) -> None:
    with pytest.raises(ULDError, match=r"no point is detected in any training image: lower methods\.\*"):
        detections(planted, ROWS, PLAIN, peaks(threshold=0.95), None)  # type: ignore[arg-type]
    planted.channels = PARTS
    with pytest.raises(ULDError, match=r"has 4 heat maps, not one .* start from a round of mallis_ch4"):
        detections(planted, ROWS, PLAIN, peaks(), None)  # type: ignore[arg-type]


def test_labels_of_two_flips(planted: Planted) -> None:
    """A point of the mirror image lies in the photograph where that shows it."""
    views = [PLAIN, MIRROR]
    score = np.full((len(ROWS), PARTS), 0.5, np.float32)
    score[3, 1] = np.nan
    sets = []
    for view in views:
        xy = planted.to_cells(ROWS, planted.to_image(ROWS, planted.centres[ROWS]), view)
        sets.append(of_found(ROWS, view, Found(np.where(np.isnan(score)[..., None], np.nan, xy), score, xy, score)))
    sets[1].detected[4] = False
    labels = to_labels(planted, sets)  # type: ignore[arg-type]
    assert labels.count == PARTS and len(labels.image) == 2 * (PARTS * len(ROWS) - 1)
    order = np.lexsort((labels.label, labels.image, labels.flipped))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    want = planted.to_image(labels.image, planted.centres[labels.image])[np.arange(len(labels.image)), labels.label]
    np.testing.assert_allclose(labels.xy, want, atol=1e-4)
    np.testing.assert_array_equal(labels.detected, ~(labels.flipped & (labels.image == ROWS[4])))
