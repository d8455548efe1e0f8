"""Terms of the contrastive loss, and which points a view shows, against plain loops."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uld.geometry import sampling
from uld.training.descriptor_contrast import contrast, draw_cells, shown, terms, within

GRID, P, N = 9, 3, 5


def scene(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Descriptors, points of which some are missing and some outside, cells, ROI."""
    draw = torch.Generator().manual_seed(count)
    maps = F.normalize(torch.randn(2 * P, 4, GRID, GRID, generator=draw, dtype=torch.float64), dim=1)
    xy = torch.rand(2 * P, count, 2, generator=draw, dtype=torch.float64) * (GRID + 2) - 1.5
    xy[torch.rand(2 * P, count, generator=draw) < 0.3] = math.nan
    cells = torch.randint(0, GRID, (2 * P, N, 2), generator=draw).double()
    return maps, xy, cells, torch.rand(2 * P, GRID, GRID, generator=draw) < 0.7


@pytest.mark.parametrize("count", [1, 4, 60])
def test_terms_equal_plain_loops(count: int) -> None:
    maps, xy, cells, inside = scene(count)
    known = [[k for k in range(count) if xy[i, k].isfinite().all() and (xy[i, k] > -0.5).all()
              and (xy[i, k] < GRID - 0.5).all()] for i in range(2 * P)]  # fmt: skip
    assert [within(xy, GRID)[i].nonzero()[:, 0].tolist() for i in range(2 * P)] == known

    def read(i: int, at: torch.Tensor) -> torch.Tensor:
        return F.normalize(sampling.sample(maps[[i]], at[None, None])[0, 0], dim=0)

    positive, negative = [], []
    for i in range(2 * P):
        for k in known[i]:
            if i < P and k in known[i + P]:
                positive.append(float(((read(i, xy[i, k]) - read(i + P, xy[i + P, k])) ** 2).sum()))
            others = [xy[i, m] for m in known[i]] + [c for c in cells[i] if inside[i, int(c[1]), int(c[0])]]
            for other in others:
                if (other - xy[i, k]).norm() > 2:
                    gap = float((read(i, other) - read(i, xy[i, k])).norm())
                    negative.append(max(0, 1.5 - gap) ** 2)
    found = terms(maps, xy, cells, inside, 1.5, 2.0)
    np.testing.assert_allclose(sorted(found[0].tolist()), sorted(positive), atol=1e-6)
    np.testing.assert_allclose(sorted(found[1].tolist()), sorted(negative), atol=1e-6)
    assert count == 1 or (len(positive) and sum(1 for value in negative if value) > 5)
    mean = np.mean(positive + negative) if positive + negative else 0
    assert float(contrast(maps, xy, cells, inside, 1.5, 2.0)) == pytest.approx(mean, abs=1e-6)


def test_without_a_point_the_loss_is_0() -> None:
    maps, xy, cells, inside = scene(3)
    maps.requires_grad_()
    loss = contrast(maps, torch.full_like(xy, math.nan), cells, inside, 1.5, 2.0)
    loss.backward()
    assert loss == 0 and maps.grad is not None and (maps.grad == 0).all()


@pytest.mark.parametrize("count", [1, 60])
def test_a_view_shows_the_points_of_its_object(count: int) -> None:
    _, xy, _, inside = scene(count)
    found = shown(xy, inside)
    for i in range(2 * P):
        for k in range(count):
            x, y = (round(v) if math.isfinite(v) else -1 for v in xy[i, k].tolist())
            assert found[i, k] == (0 <= x < GRID and 0 <= y < GRID and bool(inside[i, y, x]))


def test_cells_are_drawn_anew_for_each_view() -> None:
    batch: Any = SimpleNamespace(rows=np.zeros(2 * P), inside=torch.ones(2 * P, GRID, GRID, dtype=torch.bool))
    cells = draw_cells(batch, 500, np.random.default_rng(0))
    assert cells.shape == (2 * P, 500, 2) and cells.dtype == torch.float32
    assert set(cells.unique().tolist()) == set(range(GRID)) and not torch.equal(cells[0], cells[1])
