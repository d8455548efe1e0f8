"""Points of heat maps: which maxima count, where exactly they are, and what is described there."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uld.geometry import sampling
from uld.landmarks.detect import DetectParams, Points, detect

GRID = 12


def params(radius: int = 1, threshold: float = 0.15, least: int = 0, cap: int = 50) -> DetectParams:
    return DetectParams(radius, threshold, least, cap, 0.0)


def heat_of(*images: dict[tuple[int, int], float]) -> torch.Tensor:
    """(B, G, G), 0 but for the cells named (x, y)."""
    heat = torch.zeros(len(images), GRID, GRID)
    for image, points in zip(heat, images, strict=True):
        for (x, y), value in points.items():
            image[y, x] = value
    return heat


def maps(images: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(images, 5, GRID, GRID, generator=torch.Generator().manual_seed(seed)), dim=1)


ALL = torch.ones(1, GRID, GRID, dtype=torch.bool)


def cells(points: Points, image: int = 0) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points.xy[points.image == image]]


FOUR = {(2, 3): 0.9, (9, 3): 0.5, (4, 8): 0.2, (8, 9): 0.125}


@pytest.mark.parametrize(
    ("threshold", "least", "cap", "found"),
    [
        (0.15, 0, 9, 3),
        (0.5, 0, 9, 2),  # one that reaches the threshold
        (0.51, 0, 9, 1),
        (0.95, 0, 9, 0),
        (0.95, 2, 9, 2),  # the highest, though below the threshold
        (0.3, 2, 9, 2),
        (0.3, 3, 9, 3),
        (0.1, 0, 2, 2),
        (0.1, 1, 1, 1),
        (0.95, 3, 2, 3),  # `least` is stronger than `cap`
    ],
)
def test_threshold_least_and_cap(threshold: float, least: int, cap: int, found: int) -> None:
    points = detect(maps(1), heat_of(FOUR), ALL, params(1, threshold, least, cap))
    assert cells(points) == list(FOUR)[:found]  # by falling heat
    np.testing.assert_allclose(points.score, list(FOUR.values())[:found])


def test_each_image_counts_for_itself() -> None:
    heat = heat_of({(5, 5): 0.05, (9, 9): 0.04}, FOUR, {}, {(1, 8): 0.7})
    points = detect(maps(4), heat, ALL.expand(4, -1, -1), params(least=1, cap=2))
    assert points.image.tolist() == [0, 1, 1, 2, 3]
    assert cells(points, 0) == [(5, 5)] and cells(points, 1) == [(2, 3), (9, 3)] and cells(points, 3) == [(1, 8)]


def test_only_the_highest_within_the_radius() -> None:
    near = {(5, 5): 0.9, (7, 6): 0.8, (5, 9): 0.7}
    assert cells(detect(maps(1), heat_of(near), ALL, params(1))) == [(5, 5), (7, 6), (5, 9)]
    assert cells(detect(maps(1), heat_of(near), ALL, params(2))) == [(5, 5), (5, 9)]
    assert cells(detect(maps(1), heat_of(near), ALL, params(4))) == [(5, 5)]


def test_only_inside() -> None:
    inside = ALL.clone()
    inside[0, 3, 2] = False
    assert cells(detect(maps(1), heat_of(FOUR), inside, params())) == [(9, 3), (4, 8)]


def test_nothing_is_found() -> None:
    points = detect(maps(2), heat_of({}, {}), ALL.expand(2, -1, -1), params())
    assert points.image.shape == points.score.shape == (0,) and points.xy.shape == (0, 2)
    assert points.descriptor.shape == (0, 5) and points.descriptor.dtype == points.xy.dtype == np.float32


def paraboloid(x: float, y: float) -> torch.Tensor:
    """(1, G, G): its top, 0.9, lies between cells."""
    j, i = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
    return (0.9 - 0.05 * ((i - x) ** 2 + (j - y) ** 2)).clamp(0, 1)[None]


@pytest.mark.parametrize(("x", "y"), [(4.3, 6.0), (4.0, 6.4), (3.7, 6.2)])
def test_points_lie_between_cells_and_are_described_there(x: float, y: float) -> None:
    descriptors = maps(1)
    points = detect(descriptors, paraboloid(x, y), ALL, params(2))
    assert points.xy.shape == (1, 2)
    np.testing.assert_allclose(points.xy[0], [x, y], atol=1e-5)
    assert points.score[0] == pytest.approx(0.9 - 0.05 * ((4 - x) ** 2 + (6 - y) ** 2))  # the heat at the cell
    want = 0.0  # bilinear, by hand
    for cx in (math.floor(x), math.floor(x) + 1):
        for cy in (math.floor(y), math.floor(y) + 1):
            want = want + (1 - abs(x - cx)) * (1 - abs(y - cy)) * descriptors[0, :, cy, cx].double().numpy()
    np.testing.assert_allclose(points.descriptor[0], want / np.linalg.norm(want), atol=1e-5)


def test_at_the_border_a_point_stays_in_its_cell() -> None:
    points = detect(maps(1), paraboloid(0.3, 7.2), ALL, params(2))
    assert cells(points) == [(0, 7)]


def test_each_point_reads_its_own_image() -> None:
    descriptors = maps(3)
    heat = heat_of({(2, 3): 0.9, (7, 7): 0.8, (10, 2): 0.7}, {(4, 4): 0.6}, {(8, 3): 0.5, (3, 8): 0.4})
    whole = detect(descriptors, heat, ALL.expand(3, -1, -1), params())
    at = torch.from_numpy(whole.xy)[:, None]
    want = sampling.sample(descriptors[torch.from_numpy(whole.image)], at)[:, 0]
    torch.testing.assert_close(torch.from_numpy(whole.descriptor), want, atol=1e-6, rtol=0)
