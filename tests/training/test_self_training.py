"""Which images and labels a round draws."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.labels import taken
from tests.training.adam import ADAM
from uld.artifacts.labels import Labels
from uld.sources.views import Batch
from uld.training.labelled import LabelledImages
from uld.training.optimiser import OptimiserParams
from uld.training.self_training import SelfTrainingParams, draw_pairs

GRID, P, N = 9, 3, 5
PARAMS = SelfTrainingParams(
    steps=1, pairs=P, lr=1.0, descriptor_lr=1.0, optimiser=OptimiserParams(**ADAM), other_image=0.5, sigma=1.0,
    margin=1.5, negatives=N,
    min_distance=2.0, descriptor_weight=1.0,
)  # fmt: skip


class FakeViews:
    """Rows 3, 5, 8, 9 in five views, of which 1 and 3 are flipped; cells are pixels moved by the view."""

    rows = np.array([3, 5, 8, 9])
    flipped = np.array([False, True, False, True, False])

    def draw(self, rows: np.ndarray, flipped: np.ndarray, rng: np.random.Generator, names: list[str]) -> Batch:
        views = np.array([rng.choice(np.flatnonzero(self.flipped == one)) for one in flipped])
        absent: Any = None
        inside = torch.ones(len(rows), GRID, GRID, dtype=torch.bool)
        return Batch(rows, {"view": torch.from_numpy(views)}, absent, flipped, inside)

    def to_cells(self, batch: Batch, xy: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(xy + 100 * _view(batch)[:, None, None])


def _view(batch: Batch) -> np.ndarray:
    assert isinstance(batch.inputs, dict)
    return batch.inputs["view"].numpy()


def labels() -> Labels:
    """Landmark 1 in all images and both flips but for row 8; x tells the row, y the flip that was labelled."""
    image, flipped = np.array([3, 5, 9, 3, 5, 9]), np.repeat([False, True], 3)
    xy = np.stack([image, flipped], 1).astype(np.float32)
    return Labels(image, flipped, np.ones(6, np.int64), xy, np.ones(6, np.float32), np.ones(6, bool), 2)


def images(rows: Any = None) -> LabelledImages:
    views: Any = FakeViews()
    return LabelledImages(labels(), views, [], rows)


@pytest.mark.parametrize("rows", [None, [3, 9]])
def test_pairs_carry_the_labels_of_their_row_and_flip(rows: Any) -> None:
    given = images(None if rows is None else np.array(rows))
    seen, same = set(), 0
    for seed in range(60):
        batch, xy, cells = draw_pairs(given, PARAMS, np.random.default_rng(seed))
        assert xy.shape == (2 * P, 2, 2) and cells.shape == (2 * P, N, 2) and cells.max() < GRID
        assert xy[:, 0].isnan().all()
        np.testing.assert_array_equal(batch.flipped, FakeViews.flipped[_view(batch)])
        for row, view, at in zip(batch.rows, _view(batch), xy[:, 1], strict=True):
            seen.add((int(row), int(view)))
            if row == 8:
                assert at.isnan().all()
            else:
                assert at.tolist() == [row + 100 * view, FakeViews.flipped[view] + 100 * view]
        same += int((batch.rows[:P] == batch.rows[P:]).sum())
    assert seen == {(row, view) for row in (rows or FakeViews.rows) for view in range(5)}
    # half of the pairs are of one image by design, the others by chance
    assert same / (60 * P) == pytest.approx(0.5 + 0.5 / len(rows or FakeViews.rows), abs=0.12)


def test_a_flip_without_labels_is_not_drawn() -> None:
    plain = taken(labels(), slice(3))
    views: Any = FakeViews()
    batch = draw_pairs(LabelledImages(plain, views, []), PARAMS, np.random.default_rng(0))[0]
    assert not batch.flipped.any()


def test_all_pairs_of_one_image_or_all_by_chance() -> None:
    given = images()
    for other, share in ((0.0, 1.0), (1.0, 0.25)):
        params = SelfTrainingParams(**vars(PARAMS) | {"other_image": other, "pairs": 400})
        rows = draw_pairs(given, params, np.random.default_rng(0))[0].rows
        assert (rows[:400] == rows[400:]).mean() == pytest.approx(share, abs=0.07 * (share < 1))
