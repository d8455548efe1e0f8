"""How landmark k looks: a colour and a shape, the same in every picture, chart and table.

Colours alone do not carry 30 landmarks, and few of them survive colour blindness; so the shape changes with every
landmark too. 11 colours and 5 shapes have no common factor: 55 landmarks pass before a look repeats. The colours are
those of Okabe and Ito and four more. Their order was searched so that landmarks of one shape stay apart for
deuteranopes and protanopes.
"""

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "#D55E00",
    "#8FD14F",
    "#7A1F5C",
    "#56B4E9",
    "#0072B2",
    "#F0E442",
    "#CC79A7",
    "#009E73",
    "#E69F00",
    "#7B4A12",
    "#B8E0F0",
)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def _polygon(corners: int, turn: float) -> NDArray[np.float64]:
    """Corners (V, 2) of a regular polygon with the area of the unit circle; `turn` in turns, x right, y down."""
    angle = 2 * np.pi * (np.arange(corners) / corners + turn)
    radius = np.sqrt(2 * np.pi / (corners * np.sin(2 * np.pi / corners)))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


# circle, square, triangle, diamond, triangle on its tip
SHAPES = (_polygon(24, 0), _polygon(4, 1 / 8), _polygon(3, -1 / 4), _polygon(4, 0), _polygon(3, 1 / 4))


def colour(k: int) -> str:
    """Colour of landmark k as #RRGGBB."""
    return COLOURS[k % len(COLOURS)]


def rgb(text: str) -> tuple[int, int, int]:
    """Red, green, blue in 0..255 of a colour #RRGGBB."""
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def rim(k: int) -> str:
    """Colour of the marker's rim: dark around light colours, white around dark ones, so that it shows on anything."""
    return "#1A1A1A" if LUMA @ np.array(rgb(colour(k))) > 110 else "#FFFFFF"


def shape(k: int) -> NDArray[np.float64]:
    """Outline (V, 2) of landmark k's marker around (0, 0), x right, y down, area pi."""
    return SHAPES[k % len(SHAPES)]


def svg(k: int) -> str:
    """`points` of an SVG polygon in the box -2..2."""
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in shape(k))
