"""The head: surfaces in a rest shape, and the linear ways in which people and expressions change it.

Axes: x to the right of the image, y down, z towards the viewer. The unit is half the height of the head: the crown is
at y = -1, the eyes at 0, the chin at 1. The position of a vertex in the rest shape is its `chart`: paint and landmarks
stick to the chart, so they move with every change of shape.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Floats = NDArray[np.floating]

EYE, BROW, MOUTH, NOSE = (0.29, 0.0), (0.29, -0.15), (0.0, 0.625), (0.0, 0.35)
SKIN, EAR = 0, 1

# y, half width, depth of the front, depth of the back
_PROFILE = np.array(
    [
        (-1.00, 0.02, 0.02, 0.02),
        (-0.97, 0.25, 0.27, 0.33),
        (-0.90, 0.41, 0.46, 0.55),
        (-0.78, 0.53, 0.62, 0.74),
        (-0.60, 0.62, 0.74, 0.88),
        (-0.35, 0.675, 0.81, 0.96),
        (-0.10, 0.69, 0.84, 0.96),
        (0.10, 0.675, 0.825, 0.90),
        (0.30, 0.655, 0.82, 0.80),
        (0.50, 0.61, 0.815, 0.68),
        (0.70, 0.53, 0.80, 0.58),
        (0.85, 0.45, 0.76, 0.52),
        (0.94, 0.395, 0.70, 0.50),
        (1.00, 0.37, 0.58, 0.49),
        (1.06, 0.36, 0.43, 0.48),
        (1.20, 0.355, 0.34, 0.48),
        (1.45, 0.37, 0.32, 0.50),
        (1.62, 0.55, 0.34, 0.54),
        (1.75, 0.95, 0.38, 0.56),
        (1.90, 1.20, 0.44, 0.58),
        (2.50, 1.32, 0.52, 0.60),
    ]
)
_WIDTH, _FRONT, _BACK = (PchipInterpolator(_PROFILE[:, 0], _PROFILE[:, column]) for column in (1, 2, 3))
# y and height of the ridge of the nose
_RIDGE = PchipInterpolator(
    [-0.12, -0.03, 0.06, 0.18, 0.28, 0.35, 0.395, 0.44, 0.48], [0.0, 0.03, 0.065, 0.125, 0.18, 0.205, 0.19, 0.075, 0.0]
)


@dataclass(frozen=True)
class Sheet:
    """A surface of R x C vertices."""

    chart: Floats  # (R, C, 3)
    part: int


def lathe(y: Floats, angle: Floats, grow: Floats | float = 0.0) -> Floats:
    """Points (..., 3) of the bare head at heights y and angles around it; 0 is the front, positive to the right.

    Args:
        grow: added to its radius.
    """
    flat = 0.9  # the front of a head is flatter than an ellipse
    sin, cos = np.sin(angle), np.cos(angle)
    reach = np.where(cos > 0, _FRONT(y), _BACK(y)) + grow
    across = (_WIDTH(y) + grow) * np.sign(sin) * np.abs(sin) ** flat
    return np.stack([across, y, reach * np.sign(cos) * np.abs(cos) ** flat], -1)


def bump(chart: Floats, x: float, y: float, sx: float, sy: float) -> Floats:
    """A Gaussian (...) on the front of the chart (..., 3), and its mirror image where x is not 0."""
    front = 1 / (1 + np.exp(-12 * (chart[..., 2] - 0.15)))
    fall = np.exp(-(((chart[..., 1] - y) / sy) ** 2) / 2) * front
    sides = [np.exp(-(((chart[..., 0] - s) / sx) ** 2) / 2) for s in ({x, -x})]
    return fall * sum(sides)


def step(value: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def features(chart: Floats) -> Floats:
    """How far (...) the face rises towards the viewer above the bare head (..., 3)."""
    x, y = chart[..., 0], chart[..., 1]
    ridge = np.where(np.abs(y - 0.18) < 0.3, _RIDGE(np.clip(y, -0.12, 0.48)), 0.0)
    wide = 0.065 + 0.045 * step(y, 0.05, 0.36)
    rise = ridge * np.exp(-((x / wide) ** 2)) * (chart[..., 2] > 0)
    for height, *where in (
        (0.085, 0.105, 0.385, 0.04, 0.035),  # wings of the nose
        (-0.085, EYE[0], 0.0, 0.12, 0.075),  # sockets
        (0.06, EYE[0], 0.005, 0.075, 0.045),  # eyeballs
        (0.045, 0.25, -0.14, 0.16, 0.045),
        (0.05, 0.42, 0.20, 0.12, 0.10),  # cheek bones
        (0.045, 0.0, 0.575, 0.11, 0.028),  # lips
        (0.055, 0.0, 0.675, 0.10, 0.034),
        (-0.03, 0.0, 0.625, 0.15, 0.012),
        (-0.02, 0.0, 0.505, 0.025, 0.035),
        (-0.04, 0.0, 0.77, 0.13, 0.03),
        (0.06, 0.0, 0.90, 0.13, 0.07),  # chin
    ):
        rise = rise + height * bump(chart, *where)
    return rise


def _spaced(knots: list[tuple[float, int]]) -> Floats:
    """Values from the first knot to the last, with the given number of steps after each."""
    parts = [np.linspace(a, b, n, endpoint=False) for (a, n), (b, _) in pairwise(knots)]
    return np.append(np.concatenate(parts), knots[-1][0])


@cache
def rows() -> Floats:
    """Heights of the vertices of the head."""
    return _spaced(
        [
            (-1.0, 4),
            (-0.9, 12),
            (-0.25, 32),
            (0.33, 14),
            (0.47, 10),
            (0.6, 10),
            (0.65, 8),
            (0.75, 14),
            (1.06, 10),
            (1.9, 0),
        ]
    )


@cache
def columns() -> Floats:
    """Angles of the vertices of the head, in radians; the first and the last are one seam at the back."""
    half = _spaced([(0.0, 30), (35.0, 24), (85.0, 10), (180.0, 0)])
    return np.deg2rad(np.concatenate([-half[:0:-1], half]))


@cache
def skin() -> Sheet:
    """Head, neck and shoulders."""
    y, angle = np.meshgrid(rows(), columns(), indexing="ij")
    bare = lathe(y, angle)
    bare[..., 2] += features(bare)
    return Sheet(bare, SKIN)


@cache
def ears() -> list[Sheet]:
    """Left and right ear: dishes with a rim."""
    radius, turn = np.meshgrid(np.linspace(0, 1, 10), np.linspace(0, 2 * np.pi, 25), indexing="ij")
    across = radius * np.cos(turn) * 0.115 * (1 - 0.25 * np.sin(turn))
    down = radius * np.sin(turn) * 0.20
    bowl = (
        -0.03 * np.cos(np.pi * radius * 0.9)
        + 0.03 * np.exp(-(((radius - 0.86) / 0.1) ** 2))
        - 0.05 * step(radius, 0.9, 1)
    )
    back = across - 0.06 + 0.2 * (down / 0.2) * -0.05
    out = 0.70 + bowl + np.clip(-across, 0, None) * 0.55
    left = np.stack([-out, 0.17 + down, back], -1)
    return [Sheet(left, EAR), Sheet(left * [-1, 1, 1], EAR)]


@cache
def sheets() -> list[Sheet]:
    """All surfaces but the hair."""
    return [skin(), *ears()]


# --- people and expressions ---


def _move(x: Floats, y: Floats, z: Floats) -> Floats:
    return np.stack([x, y, z], -1)


def _identity(c: Floats) -> dict[str, Floats]:
    """Displacements (..., 3), for one standard deviation, of the chart c."""
    x, y, z = c[..., 0], c[..., 1], c[..., 2]
    o = np.zeros_like(x)
    side = np.tanh(x / 0.1)
    head = 1 - step(y, 1.1, 1.5)
    eye, mouth = bump(c, *EYE, 0.14, 0.08), bump(c, *MOUTH, 0.25, 0.10)
    nose = bump(c, *NOSE, 0.11, 0.09) + bump(c, 0, 0.15, 0.09, 0.12)
    tip = bump(c, 0, 0.38, 0.13, 0.07)
    jaw = step(y, 0.2, 0.85) * head
    return {
        "width": _move(0.045 * x * head, o, o),
        "length": _move(o, 0.035 * y * head, o),
        "depth": _move(o, o, 0.04 * z * head),
        "jaw": _move(0.11 * x * jaw, o, o),
        "chin": _move(o, 0.035 * bump(c, 0, 0.97, 0.3, 0.12), 0.02 * bump(c, 0, 0.9, 0.2, 0.1)),
        "forehead": _move(o, o, -0.05 * step(-y, 0.2, 0.8) * (z > 0)),
        "cheek": _move(0.03 * side * bump(c, 0.5, 0.4, 0.15, 0.18), o, 0.025 * bump(c, 0.4, 0.4, 0.14, 0.16)),
        "nose_length": _move(o, 0.022 * tip, o),
        "nose_height": _move(o, o, 0.035 * nose),
        "nose_width": _move(0.16 * x * tip, o, o),
        "nose_hook": _move(o, o, 0.025 * bump(c, 0, 0.14, 0.06, 0.08)),
        "eye_distance": _move(0.016 * side * eye, o, o),
        "eye_size": _move(0.10 * (x - EYE[0] * np.sign(x)) * eye, 0.16 * (y - EYE[1]) * eye, o),
        "eye_slant": _move(o, -0.10 * (np.abs(x) - EYE[0]) * eye, o),
        "brow_height": _move(o, -0.022 * bump(c, *BROW, 0.2, 0.06), o),
        "brow_ridge": _move(o, o, 0.02 * bump(c, 0.25, -0.13, 0.2, 0.06)),
        "mouth_width": _move(0.09 * x * mouth, o, o),
        "mouth_height": _move(o, 0.018 * mouth, o),
        "lips": _move(o, 0.16 * (y - MOUTH[1]) * mouth, 0.012 * bump(c, *MOUTH, 0.14, 0.06)),
        "ears": _move(0.05 * side * (np.abs(x) > 0.69), o, o),
    }


def _expression(c: Floats) -> dict[str, Floats]:
    """Displacements (..., 3), for one unit, of the chart c."""
    x, y = c[..., 0], c[..., 1]
    o = np.zeros_like(x)
    side = np.tanh(x / 0.1)
    corner = bump(c, 0.19, 0.62, 0.09, 0.08)
    lower = step(y, 0.612, 0.638) * (1 - step(y, 1.0, 1.4)) * np.exp(-((x / 0.42) ** 4)) * (c[..., 2] > 0.1)
    slit = np.where(y < 0.75, np.clip(1 - (x / 0.21) ** 2, 0, 1) ** 0.7, 1.0)
    jaw = lower * (slit + (1 - slit) * step(y, 0.64, 0.76))
    lids = bump(c, *EYE, 0.09, 0.035)
    return {
        "smile": _move(0.05 * side * corner, -0.05 * corner, -0.025 * corner)
        + _move(o, -0.015 * bump(c, 0.36, 0.3, 0.12, 0.1), 0.02 * bump(c, 0.36, 0.3, 0.12, 0.1)),
        "open": _move(o, 0.15 * jaw, -0.03 * jaw),
        "pucker": _move(-0.06 * side * corner, o, 0.03 * bump(c, *MOUTH, 0.15, 0.07)),
        "brows": _move(o, -0.04 * bump(c, *BROW, 0.2, 0.05), o),
        "frown": _move(-0.02 * side * bump(c, 0.15, -0.14, 0.09, 0.05), 0.025 * bump(c, 0.15, -0.14, 0.09, 0.05), o),
        "blink": _move(o, -0.85 * (y - 0.012) * lids, o),
    }


@dataclass(frozen=True)
class Modes:
    """Linear changes of a sheet: names, and displacements (modes, R, C, 3)."""

    names: list[str]
    moves: NDArray[np.float32]


@cache
def identities() -> list[Modes]:
    """How people differ, for each of `sheets`."""
    return [_modes(_identity(sheet.chart)) for sheet in sheets()]


@cache
def expressions() -> list[Modes]:
    """What a face does, for each of `sheets`."""
    return [_modes(_expression(sheet.chart)) for sheet in sheets()]


def _modes(named: dict[str, Floats]) -> Modes:
    return Modes(list(named), np.stack(list(named.values())).astype(np.float32))


def skull(chart: Floats) -> Modes:
    """How hair (R, C, 3) follows the head below it."""
    named = _identity(chart)
    return _modes({name: named[name] for name in ("width", "length", "depth", "forehead")})
