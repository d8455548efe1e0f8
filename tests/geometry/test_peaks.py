"""Suppression against plain loops, sub-cell shifts against surfaces whose top is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uld.geometry.peaks import Peaks, peaks, quadratic


def greedy(heat: np.ndarray, radius: int) -> list[tuple[int, int]]:
    """Greedy suppression of one map: from the highest cell down, keep what no kept cell is near to."""
    kept: list[tuple[int, int]] = []
    for flat in np.argsort(-heat, axis=None):
        y, x = divmod(int(flat), heat.shape[1])
        if all(max(abs(x - a), abs(y - b)) > radius for a, b in kept):
            kept.append((x, y))
    return kept


def reference(heat: np.ndarray, inside: np.ndarray, radius: int, threshold: float, cap: int) -> list[tuple[int, int]]:
    """Greedy points of one map that are the highest of their window, by falling heat."""
    masked = np.where(inside, heat, -np.inf)

    def is_top(x: int, y: int) -> bool:
        window = masked[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        return bool(masked[y, x] >= threshold and masked[y, x] == window.max() and inside[y, x])

    return [(x, y) for x, y in greedy(masked, radius) if is_top(x, y)][:cap]


def points_of(found: Peaks, image: int) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in found.xy[found.image == image]]


@given(
    seed=st.integers(0, 2**16),
    grid=st.integers(3, 14),
    radius=st.integers(1, 4),
    cap=st.integers(1, 12),
    threshold=st.floats(0, 0.9),
)
def test_equals_greedy_reference(seed: int, grid: int, radius: int, cap: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.permuted(np.linspace(0, 1, 3 * grid * grid, dtype=np.float32)).reshape(3, grid, grid)  # no ties
    inside = rng.random((3, grid, grid)) < 0.8
    inside[2] = False
    found = peaks(torch.from_numpy(heat), torch.from_numpy(inside), radius, threshold, cap)
    for image in range(3):
        assert points_of(found, image) == reference(heat[image], inside[image], radius, threshold, cap)
    x, y = found.xy.astype(int).T
    np.testing.assert_array_equal(found.score, heat[found.image, y, x])


@given(seed=st.integers(0, 2**16), radius=st.integers(1, 3), levels=st.integers(1, 4))
def test_plateaus_keep_distance_and_cover_the_top(seed: int, radius: int, levels: int) -> None:
    heat = np.random.default_rng(seed).integers(0, levels, (1, 9, 9)).astype(np.float32)
    found = peaks(torch.from_numpy(heat), torch.ones(1, 9, 9, dtype=torch.bool), radius, 0.0, 81)
    gaps = np.abs(found.xy[:, None] - found.xy[None]).max(axis=2)
    assert (gaps + 99 * np.eye(len(gaps)) > radius).all()
    assert found.score.max() == heat.max()


def test_one_point_a_plateau() -> None:
    heat = torch.zeros(1, 8, 8)
    heat[0, 2:4, 1:7] = 1
    found = peaks(heat, torch.ones(1, 8, 8, dtype=torch.bool), 1, 0.5, 10)
    assert points_of(found, 0) == [(1, 2)]


@pytest.mark.parametrize("inside", [True, False])
def test_nothing_found(inside: bool) -> None:
    found = peaks(torch.zeros(2, 5, 5), torch.full((2, 5, 5), inside), 2, 0.1, 3)
    assert found.image.shape == (0,) and found.xy.shape == (0, 2) and found.score.shape == (0,)


@given(
    top=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    angle=st.floats(0, np.pi),
    narrow=st.floats(0.2, 5.0),
)
def test_quadratic_finds_top_of_paraboloid(top: tuple[float, float], angle: float, narrow: float) -> None:
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s], [s, c]])
    hessian = rotation @ np.diag([1.0, narrow]) @ rotation.T
    y, x = np.mgrid[:7, :7]
    offset = np.stack([x - 3 - top[0], y - 4 - top[1]], axis=-1)
    heat = torch.from_numpy(-np.einsum("yxi,ij,yxj->yx", offset, hessian, offset))[None]
    shift = quadratic(heat, torch.tensor([0]), torch.tensor([[3, 4]]))
    np.testing.assert_allclose(shift[0], top, atol=1e-9)


def test_quadratic_is_bounded_and_leaves_what_has_no_top() -> None:
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    far = -((x - 4) ** 2) - (y - 2) ** 2
    masked = -((x - 2.3) ** 2) - (y - 2) ** 2
    masked[1, 1] = -torch.inf
    maps = torch.stack([far, x * y, masked, -((x - 0.3) ** 2) - y**2, torch.ones(5, 5)])
    cell = torch.tensor([[2, 2], [2, 2], [2, 2], [0, 0], [2, 2]])
    shift = quadratic(maps, torch.arange(5), cell)
    np.testing.assert_allclose(shift, [[0.5, 0], [0, 0], [0, 0], [0, 0], [0, 0]], atol=1e-6)


def test_no_image() -> None:
    """As of a data set without test images, whose only batch is empty."""
    found = peaks(torch.zeros(0, 6, 6), torch.zeros(0, 6, 6, dtype=torch.bool), 1, 0.1, 5)
    assert found.image.shape == found.score.shape == (0,) and found.xy.shape == (0, 2)
