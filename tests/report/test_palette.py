"""Landmarks can be told apart."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from uld.report import palette

# linear RGB as a deuteranope and a protanope sees it (Machado, Oliveira and Fernandes 2009, severity 1)
BLIND = {
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "normal": np.eye(3).tolist(),
}


def oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Perceptual coordinates of linear RGB (Ottosson 2020)."""
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069954, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    axes = [
        [0.21045426, 0.79361778, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(linear.clip(0, 1) @ np.array(cones).T) @ np.array(axes).T


@pytest.mark.parametrize("eyes", BLIND)
def test_landmarks_of_one_shape_differ_in_colour(eyes: str) -> None:
    values = np.array([palette.rgb(palette.colour(k)) for k in range(16)]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = oklab(linear @ np.array(BLIND[eyes]).T)
    for a, b in itertools.combinations(range(16), 2):
        if palette.shape(a) is palette.shape(b):
            assert np.linalg.norm(seen[a] - seen[b]) > 0.1, (a, b)


def test_55_looks() -> None:
    looks = {(palette.colour(k), palette.svg(k)) for k in range(200)}
    assert len({(palette.colour(k), palette.svg(k)) for k in range(55)}) == len(looks) == 55


@pytest.mark.parametrize("k", range(5))
def test_shapes_have_one_area_and_centre(k: int) -> None:
    x, y = palette.shape(k).T
    area = 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))
    assert area == pytest.approx(np.pi)
    assert palette.shape(k).mean(axis=0) == pytest.approx([0, 0], abs=1e-12)


def test_the_third_shape_points_up() -> None:
    assert palette.shape(2)[:, 1].min() < -1.2 < -palette.shape(2)[:, 1].max() < 0  # y grows downwards


@pytest.mark.parametrize("k", range(11))
def test_the_rim_contrasts_with_the_colour(k: int) -> None:
    fill, rim = (np.array(palette.rgb(text)) @ palette.LUMA for text in (palette.colour(k), palette.rim(k)))
    assert abs(fill - rim) > 80
