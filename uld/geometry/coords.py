"""Coordinate frames and the transforms between them.

One convention everywhere: points are (x, y), a pixel's centre is at integer coordinates, so an image of width W spans
[-0.5, W - 0.5] (half-pixel convention, `align_corners=False` in torch). A 2x3 affine `A` maps points by
`A[:, :2] @ (x, y) + A[:, 2]`. Frames: *image* (original pixels, the frame of every file), *crop* (S x S square around
the object), *view* (an S x S geometric augmentation of the crop), *grid* (G x G cells over a view).
"""

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Points = NDArray[np.float32]


def apply(affine: Affine, xy: NDArray[np.floating]) -> Points:
    """Map points. `affine` (..., 2, 3), `xy` (..., P, 2) with the same leading dimensions -> (..., P, 2) float32."""
    return (xy @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]).astype(np.float32)


def invert(affine: Affine) -> Affine:
    """Inverse of affines (..., 2, 3)."""
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)


def compose(second: Affine, first: Affine) -> Affine:
    """The affine (..., 2, 3) that applies `first` and then `second`."""
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], axis=-1)


def resize(old: int, new: int) -> Affine:
    """From pixels of a square of `old` cells to cells of the same square divided into `new` cells."""
    k = new / old
    return np.array([[k, 0, (k - 1) / 2], [0, k, (k - 1) / 2]], dtype=np.float64)


def crop(boxes: NDArray[np.floating], margin: float, size: int) -> Affine:
    """Image -> crop affines for square crops around boxes.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in image pixels as *edges*: a box over pixels a..b spans [a - 0.5, b + 0.5].
        margin: share of the longer box side added on every side.
        size: S, the crop's side in pixels.

    Returns:
        (N, 2, 3): the square has the box's centre and side (1 + 2 margin) max(width, height).
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    side = np.maximum(x2 - x1, y2 - y1) * (1 + 2 * margin)
    k = size / side
    out = np.zeros((len(boxes), 2, 3))
    out[:, 0, 0] = out[:, 1, 1] = k
    out[:, 0, 2] = -k * ((x1 + x2) / 2 - side / 2) - 0.5
    out[:, 1, 2] = -k * ((y1 + y2) / 2 - side / 2) - 0.5
    return out


def view(size: int, mirror: bool = False, rotate: float = 0.0, scale: float = 1.0) -> Affine:
    """Crop -> view affine about the crop's centre: mirror in x, then rotate (degrees, x towards y), then scale."""
    c = (size - 1) / 2
    angle = np.deg2rad(rotate)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    centre = np.array([[c], [c]])
    return np.concatenate([linear, centre - linear @ centre], axis=1)


def mirrored(affine: Affine, size: int) -> Affine:
    """What a view of S x S pixels shows in a mirror: affines (..., 2, 3), with x counted from the other side."""
    return compose(np.array([[-1.0, 0, size - 1], [0, 1, 0]]), affine)


def cells(grid: int) -> Points:
    """Centres (G*G, 2) of the cells of a G x G grid in row-major order, in grid coordinates."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return np.stack([x, y], axis=1).astype(np.float32)
