"""The 68 points of iBUG on the rest shape of the head, and what a mirror makes of them.

A jaw point is the same place of the skin in every pose, not the outline that a photograph happens to show.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from uld.datasets.heads3d.head import EYE, columns, rows, skin

# angle around the head in degrees, and height, from the ear to the chin
_JAW = [(84, 0.0), (84, 0.17), (83, 0.34), (80, 0.50), (73, 0.64), (61, 0.77), (44, 0.87), (23, 0.94), (0, 0.97)]
_BROW = [(0.46, -0.105), (0.40, -0.16), (0.31, -0.185), (0.21, -0.175), (0.115, -0.14)]  # outer to inner
_RIDGE = [(0, 0.0), (0, 0.11), (0, 0.22), (0, 0.33)]
_WINGS = [(0.115, 0.435), (0.06, 0.45), (0, 0.46), (-0.06, 0.45), (-0.115, 0.435)]
_EYE = [
    (0.115, 0.005),
    (0.05, -0.042),
    (-0.045, -0.038),
    (-0.11, 0.015),
    (-0.045, 0.042),
    (0.05, 0.044),
]  # from its centre
_LIPS = [(0.215, 0.62), (0.14, 0.58), (0.06, 0.555), (0, 0.563)]
_LIPS_BELOW = [(0.14, 0.685), (0.07, 0.715), (0, 0.722)]
_INNER, _INNER_BELOW = [(0.17, 0.622), (0.07, 0.612), (0, 0.614)], [(0.07, 0.638), (0, 0.638)]


def _flip(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(-x, y) for x, y in points]


def _charted() -> list[tuple[float, float]]:
    """(x, y) of points 17 to 67 in the rest shape; the photograph's left comes first."""
    eye = [(EYE[0] + x, EYE[1] + y) for x, y in _EYE]
    left, right = _flip(eye), [eye[i] for i in (3, 2, 1, 0, 5, 4)]
    upper = _flip(_LIPS) + _LIPS[-2::-1]
    below = _LIPS_BELOW + _flip(_LIPS_BELOW[-2::-1])
    inner = _flip(_INNER) + _INNER[-2::-1] + _INNER_BELOW + _flip(_INNER_BELOW[-2::-1])
    return _flip(_BROW) + _BROW[::-1] + _RIDGE + _flip(_WINGS) + left + right + upper + below + inner


@cache
def corners() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each landmark is a weighted mean of vertices of the skin: their flat indices and weights, (68, 4) each."""
    down, around = rows(), columns()
    chart = skin().chart
    placed = [(np.deg2rad(angle), y) for angle, y in [(-a, y) for a, y in _JAW] + _JAW[-2::-1]]
    for x, y in _charted():
        row = int(np.searchsorted(down, y)) - 1
        t = (y - down[row]) / (down[row + 1] - down[row])
        along = (1 - t) * chart[row, :, 0] + t * chart[row + 1, :, 0]
        front = np.flatnonzero(np.abs(around) < np.pi / 2)
        placed.append((float(np.interp(x, along[front], around[front])), y))
    angle, y = np.array(placed).T
    row = np.clip(np.searchsorted(down, y) - 1, 0, len(down) - 2)
    column = np.clip(np.searchsorted(around, angle) - 1, 0, len(around) - 2)
    t, u = (
        (y - down[row]) / (down[row + 1] - down[row]),
        (angle - around[column]) / (around[column + 1] - around[column]),
    )
    near = row * len(around) + column
    index = np.stack([near, near + 1, near + len(around), near + len(around) + 1], 1)
    return index, np.stack([(1 - t) * (1 - u), (1 - t) * u, t * (1 - u), t * u], 1)
