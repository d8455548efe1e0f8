"""Rendered points against the definition, cell by cell."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from uld.geometry import heatmaps
from uld.geometry.heatmaps import render

NAN = math.nan


def by_cell(xy: np.ndarray, grid: int, sigma: float) -> np.ndarray:
    out = np.zeros((len(xy), grid, grid))
    for image, points in enumerate(xy):
        for x, y in points[~np.isnan(points).any(1)]:
            for row in range(grid):
                for column in range(grid):
                    height = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
                    out[image, row, column] = max(out[image, row, column], height)
    return out


@pytest.mark.parametrize("limit", [1, 200, 10**9])
@pytest.mark.parametrize("sigma", [0.6, 1.5])
def test_equals_the_definition(limit: int, sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmaps, "DISTANCES", limit)
    rng = np.random.default_rng(0)
    xy = rng.uniform(-2, 9, (3, 5, 2))  # some lie outside
    xy[0, 2] = NAN
    xy[1, 1, 0] = NAN  # half a point is none
    xy[1, 3, 1] = NAN
    xy[2] = NAN
    found = render(torch.from_numpy(xy), 7, sigma)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_cell(xy, 7, sigma), rtol=0, atol=1e-12)
    assert not found[2].any()


def test_height_1_at_a_cell_and_sigma_in_cells() -> None:
    heat = render(torch.tensor([[[3.0, 1.0]]]), 6, 2.0)[0]
    assert heat[1, 3] == 1  # row y, column x
    torch.testing.assert_close(heat[1], torch.exp(-((torch.arange(6.0) - 3) ** 2) / 8))
    torch.testing.assert_close(heat[:, 3], torch.exp(-((torch.arange(6.0) - 1) ** 2) / 8))


def test_without_a_width_a_point_is_its_cell() -> None:
    """Borders of cells are at halves; what lies outside the map leaves no trace."""
    heat = render(torch.tensor([[[1.49, 2.51], [0.0, 0.0], [-0.6, 1.0], [NAN, NAN]]]), 4, 0)[0]
    assert heat.nonzero().tolist() == [[0, 0], [3, 1]] and heat.max() == 1


def test_between_cells_and_the_maximum_of_two() -> None:
    heat = render(torch.tensor([[[0.5, 0.0], [1.5, 0.0], [1.5, 0.0]]]), 3, 0.5)
    torch.testing.assert_close(heat[0, 0], torch.full((3,), math.exp(-0.5)))  # a sum would be higher in the middle


@pytest.mark.parametrize("shape", [(2, 0, 2), (0, 4, 2)])
def test_nothing_to_render(shape: tuple[int, ...]) -> None:
    assert torch.equal(render(torch.zeros(shape), 5, 1.0), torch.zeros(shape[0], 5, 5))


def test_memory_is_bounded_by_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = torch.Tensor.amin

    def spy(self: torch.Tensor, *args: Any) -> torch.Tensor:
        sizes.append(self.numel())
        return original(self, *args)

    monkeypatch.setattr(torch.Tensor, "amin", spy)
    monkeypatch.setattr(heatmaps, "DISTANCES", 3 * 2 * 64)
    render(torch.zeros(2, 7, 2), 8, 1.0)
    assert sizes == [384, 384, 128]
