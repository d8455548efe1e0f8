"""Random positions: inside, evenly spread, capped, and the same whatever the batch size."""

import itertools
import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uld.landmarks.draw import DrawParams, draw, place


@given(seed=st.integers(0, 2**16), share=st.floats(0, 1))
def test_positions_lie_in_cells_inside(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    inside = torch.from_numpy(rng.random((4, 6, 6)) < share)
    uniform = rng.random((4, 50, 3), dtype=np.float32)
    uniform[0, 0], uniform[0, 1] = 0, np.nextafter(np.float32(1), np.float32(0))
    xy = place(inside, torch.from_numpy(uniform))
    assert (xy >= -0.5).all() and (xy <= 5.5).all()
    hit = ~inside.flatten(1).any(dim=1)[:, None].expand(4, 50)
    for shift in itertools.product((-1e-5, 1e-5), repeat=2):  # a position on an edge belongs to either cell
        x, y = (xy + torch.tensor(shift)).round().clamp(0, 5).long().unbind(dim=2)
        hit = hit | inside[torch.arange(4)[:, None], y, x]
    assert hit.all()


def test_positions_are_even() -> None:
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[0, 1, 1:] = inside[0, 3, 0] = True
    uniform = np.random.default_rng(0).random((1, 40_000, 3), dtype=np.float32)
    xy = place(inside, torch.from_numpy(uniform))[0].numpy()
    cell, counts = np.unique(np.round(xy), axis=0, return_counts=True)
    assert len(cell) == 4 and np.allclose(counts, 10_000, rtol=0.05)
    np.testing.assert_allclose((xy - np.round(xy)).mean(axis=0), 0, atol=0.01)


@pytest.mark.parametrize(("cap", "images", "each"), [(1000, 10, 20), (200, 10, 20), (55, 10, 5), (7, 7, 1)])
def test_cap(cap: int, images: int, each: int, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.arange(100, 110)
    with caplog.at_level(logging.WARNING):
        plan = draw(rows, DrawParams(20, cap), np.random.default_rng(0))
    assert plan.uniform.shape == (images, each, 3)
    assert len(np.unique(plan.rows)) == images and np.isin(plan.rows, rows).all() and (np.diff(plan.rows) > 0).all()
    assert bool(caplog.messages) == (cap < 200)
    np.testing.assert_array_equal(plan.image, np.repeat(plan.rows, each))
