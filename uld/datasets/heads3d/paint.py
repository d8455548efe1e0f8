"""Colours: skin, eyes, brows, lips, hair, cloth, and what lies behind a head."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from uld.datasets.heads3d.head import EAR, EYE, step

Floats = NDArray[np.floating]
Colour = NDArray[np.floating]  # (3,) linear RGB in [0, 1]

HAIR = 2
# light to dark
_SKIN = np.array([(0.80, 0.60, 0.50), (0.72, 0.50, 0.39), (0.58, 0.38, 0.27), (0.40, 0.24, 0.16), (0.24, 0.14, 0.10)])
_HAIR = np.array(
    [
        (0.02, 0.017, 0.015),
        (0.07, 0.04, 0.025),
        (0.17, 0.095, 0.05),
        (0.45, 0.31, 0.16),
        (0.32, 0.13, 0.05),
        (0.5, 0.49, 0.47),
    ]
)
_IRIS = np.array([(0.09, 0.045, 0.02), (0.16, 0.10, 0.05), (0.15, 0.25, 0.38), (0.16, 0.24, 0.15)])


@dataclass(frozen=True)
class Looks:
    """What a person's surfaces look like."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: float  # 0: skin ... 1: painted
    brows: float  # thickness, 1 is usual
    beard: float  # 0 ... 1
    cloth: Colour


def looks(rng: np.random.Generator) -> Looks:
    """One person's."""
    tone = rng.beta(1.1, 1.4) * (len(_SKIN) - 1)
    skin = np.array([np.interp(tone, range(len(_SKIN)), _SKIN[:, c]) for c in range(3)]) * rng.uniform(0.92, 1.08, 3)
    dark = tone > 2.5
    hair = _HAIR[
        rng.choice(len(_HAIR), p=[0.75, 0.2, 0.02, 0, 0, 0.03] if dark else [0.2, 0.3, 0.22, 0.14, 0.05, 0.09])
    ]
    iris = _IRIS[0 if dark else rng.choice(len(_IRIS))]
    beard = rng.uniform(0.3, 1.0) if rng.random() < 0.22 else 0.0
    cloth = rng.uniform(0.02, 0.6) * (0.35 + rng.uniform(0, 0.65, 3))
    return Looks(
        skin,
        hair * rng.uniform(0.8, 1.25),
        iris * rng.uniform(0.8, 1.3),
        rng.uniform(0.2, 0.8),
        rng.uniform(0.7, 1.5),
        beard,
        cloth,
    )


def blotches(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Smooth noise (256, 256) of mean about 0 and spread about 1; `cells` blobs across."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), np.float32)


class _Canvas:
    """P places of a head and their colours, painted one layer after the other."""

    def __init__(self, chart: Floats, noise: list[NDArray[np.float32]]) -> None:
        self.x, self.y, self.z = chart.T
        self.side = np.abs(self.x)
        self.face = self.z > 0.2
        self.u = np.clip(np.arctan2(self.x, self.z) / (2 * np.pi) + 0.5, 0, 1)
        self.v = np.clip((self.y + 1.1) / 3.7, 0, 1)
        self.coarse, self.fine = (self.read(one, self.u, self.v) for one in noise)
        self.colour = np.zeros_like(chart)
        self.gloss = np.full(len(chart), 0.12, np.float32)

    def read(self, noise: NDArray[np.float32], u: Floats, v: Floats) -> Floats:
        """Noise (256, 256) at u, v in [0, 1]."""
        return np.asarray(map_coordinates(noise, [v * 255, u * 255], np.float32, order=1))

    def spot(self, x: float, y: float, sx: float, sy: float) -> Floats:
        """A soft spot on both sides of the face."""
        return np.exp(-(((self.side - x) / sx) ** 2) - ((self.y - y) / sy) ** 2) * self.face

    def lay(self, over: Colour | Floats, share: Floats) -> None:
        """Paint a colour (3,), or one of each place (P, 3), over a share (P,) of what is there."""
        self.colour += share[:, None] * (over - self.colour)

    def dim(self, share: Floats) -> None:
        """Take away a share (P,) of the light."""
        self.colour *= (1 - share)[:, None]


def surface(
    chart: Floats, part: NDArray[np.int64], who: Looks, gaze: tuple[float, float], noise: list[NDArray[np.float32]]
) -> tuple[Floats, Floats]:
    """Colour (P, 3) and gloss (P,) of points (P, 3) of the chart.

    Args:
        part: (P,) SKIN, EAR or HAIR.
        gaze: shift of the irises in units of the head.
        noise: two of `blotches`, coarse and fine.
    """
    on = _Canvas(chart, noise)
    _skin(on, who)
    if who.beard:
        _beard(on, who)
    _mouth(on, who)
    _brows(on, who)
    _eyes(on, who, gaze)
    on.colour[part == EAR] = who.skin * [1.0, 0.88, 0.86]
    collar = 1.5 + 0.12 * step(on.z, 0, 0.3)
    dressed = step(on.y - collar, 0, 0.02)
    on.lay(who.cloth * (1 + 0.08 * on.fine)[:, None], dressed)
    on.gloss *= 1 - dressed
    hair = part == HAIR
    strands = 1 + 0.28 * on.read(noise[1], (on.u * 9) % 1, on.v * 0.35)
    on.colour[hair] = who.hair * strands[hair, None]
    on.gloss[hair] = 0.25
    return np.clip(on.colour, 0, 1), on.gloss


def _skin(on: _Canvas, who: Looks) -> None:
    on.colour += who.skin * (1 + 0.04 * on.coarse + 0.03 * on.fine)[:, None]
    on.lay(who.skin * [1.08, 0.82, 0.80], 0.6 * on.spot(0.4, 0.3, 0.16, 0.16) + 0.36 * on.spot(0, 0.36, 0.1, 0.08))
    crease = np.exp(-(((on.y - 0.55 * (on.side - 0.13) - 0.44) / 0.02) ** 2)) * on.face  # from the nose to the mouth
    crease *= step(on.side, 0.13, 0.17) * (1 - step(on.side, 0.22, 0.28))
    nostrils, corners = on.spot(0.055, 0.447, 0.028, 0.013), on.spot(0.2, -0.01, 0.05, 0.06)
    neck = step(on.y, 1.0, 1.12) * (1 - 0.5 * step(on.y, 1.2, 1.6))
    on.dim(np.clip(0.25 * crease + 0.8 * nostrils + 0.35 * corners + 0.45 * neck, 0, 0.85))


def _beard(on: _Canvas, who: Looks) -> None:
    edge = 0.38 + 0.1 * np.exp(-((on.x / 0.2) ** 2)) + 0.05 * on.fine
    grown = step(on.y - edge, 0, 0.12) * (1 - step(on.y, 1.02, 1.12)) * step(on.z, -0.05, 0.1)
    grown *= 1 - np.exp(-((on.x / 0.23) ** 4) - ((on.y - 0.64) / 0.06) ** 4)  # not on the lips
    on.lay(who.hair * (1 + 0.25 * on.fine)[:, None], np.clip(who.beard * grown * (0.85 + 0.15 * on.fine), 0, 1))


def _mouth(on: _Canvas, who: Looks) -> None:
    top = 0.57 - 0.02 * np.exp(-(((on.side - 0.055) / 0.035) ** 2)) + 0.055 * (on.side / 0.2) ** 2
    bottom = 0.722 - 0.1 * (on.side / 0.215) ** 2.2
    lips = step(on.y - top, -0.012, 0.008) * (1 - step(on.y - bottom, -0.01, 0.012)) * (1 - step(on.side, 0.19, 0.22))
    red = who.skin * [0.95, 0.55, 0.55] * (1 - who.lips) + np.array([0.5, 0.1, 0.12]) * who.lips
    on.lay(red, 0.75 * lips * on.face)
    gap = (np.abs(on.y - 0.625) < 0.0115 * np.sqrt(np.clip(1 - (on.x / 0.2) ** 2, 0, 1))) & on.face
    on.colour[gap] = [0.09, 0.03, 0.03]
    on.colour[gap & (on.y < 0.6235) & (on.side < 0.14)] = [0.62, 0.58, 0.52]  # teeth


def _brows(on: _Canvas, who: Looks) -> None:
    arc = -0.125 - 0.055 * np.cos((on.side - 0.27) / 0.21 * 1.25)
    thick = 0.024 * who.brows * (1 - 0.65 * step(on.side, 0.2, 0.48))
    brow = np.exp(-(((on.y - arc) / thick) ** 2)) * step(on.side, 0.09, 0.13) * (1 - step(on.side, 0.42, 0.48))
    on.lay(who.hair * 0.8 + 0.01, np.clip(brow * (0.8 + 0.25 * on.fine), 0, 0.95) * on.face)


def _eyes(on: _Canvas, who: Looks, gaze: tuple[float, float]) -> None:
    x, y = on.side - EYE[0], on.y - EYE[1]
    width = np.clip(1 - np.abs(x / 0.117) ** 2.2, 0, None)
    upper, lower = 0.008 - 0.058 * width, 0.010 + 0.036 * width
    iris = np.hypot(x - gaze[0] * np.sign(on.x), y + 0.006 - gaze[1])
    eye = np.array([0.75, 0.72, 0.70]) * np.where(y < upper + 0.022, 0.62, 1.0)[:, None]  # in the shade of the lid
    eye = np.where((iris < 0.049)[:, None], who.iris * (1.15 - 0.6 * (iris > 0.041))[:, None], eye)
    eye[iris < 0.021] = 0.008
    between = (y > upper) & (y < lower) & on.face
    on.colour[between], on.gloss[between] = eye[between], 0.5
    lash = np.exp(-(((y - upper) / 0.011) ** 2)) * (width > 0)
    lash += 0.35 * np.exp(-(((y - lower) / 0.008) ** 2)) * (width > 0.05)
    on.lay(np.array([0.02, 0.015, 0.012]), np.clip(lash, 0, 0.9) * on.face * (np.abs(x) < 0.125))
    on.dim(0.3 * np.exp(-(((y - upper + 0.028) / 0.008) ** 2)) * (width > 0.1) * on.face)  # crease of the lid


def background(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """What is behind (size, size, 3): a blurred room of bands and blobs."""
    low = rng.uniform(0.02, 0.7) * (0.6 + rng.uniform(0, 0.4, 3))
    high = np.clip(low * rng.uniform(0.5, 1.9) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    t = np.clip(0.5 + x * np.cos(turn) + y * np.sin(turn), 0, 1)[..., None]
    image = ((1 - t) * low + t * high).astype(np.float32)
    for _ in range(rng.integers(0, 7)):
        colour = tuple(float(v) for v in rng.uniform(0.02, 0.75) * (0.5 + rng.uniform(0, 0.5, 3)))
        corner, far = rng.uniform(-0.2, 1.2, 2) * size, rng.uniform(0.05, 0.5, 2) * size
        if rng.random() < 0.6:
            cv2.rectangle(image, corner.astype(int).tolist(), (corner + far).astype(int).tolist(), colour, -1)
        else:
            cv2.ellipse(image, (corner.tolist(), far.tolist(), float(rng.uniform(0, 180))), colour, -1)
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.01, 0.05)) * size)
