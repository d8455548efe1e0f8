"""Coordinate frames and the transforms between them.

One convention everywhere: points are (x, y), a pixel's centre is at integer coordinates, so an image of width W spans
[-0.5, W - 0.5] (half-pixel convention, `align_corners=False` in torch). A 2x3 affine `A` maps points by
`A[:, :2] @ (x, y) + A[:, 2]`. Frames: *image* (original pixels, the frame of every file), *crop* (S x S square around
the object), *view* (an S x S geometric augmentation of the crop), *grid* (G x G cells over a view).
"""

import numpy as np
import torch
import torch.nn.functional as F
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


def warp(images: torch.Tensor, affine: Affine, padding: str = "reflection") -> torch.Tensor:
    """Resample square images into another frame of the same size.

    Args:
        images: (N, C, S, S) float.
        affine: (2, 3), old pixel -> new pixel.
        padding: what lies outside: `reflection`, `border` or `zeros`.

    Returns:
        (N, C, S, S), bilinear. Multiples of a quarter turn and the mirror are exact.
    """
    size = images.shape[-1]
    back = invert(affine)
    # grid_sample wants (new -> old) in normalised coordinates u = (2 x + 1) / S - 1
    linear = back[:, :2]
    shift = (2 * (back[:, 2] + linear @ np.full(2, (size - 1) / 2)) + 1) / size - 1
    theta = torch.tensor(np.concatenate([linear, shift[:, None]], axis=1), dtype=images.dtype, device=images.device)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def sample(maps: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Bilinear values of maps at float points.

    Args:
        maps: (N, C, H, W).
        xy: (N, P, 2) in cells of the map (centres at integers); outside, the border value is taken.

    Returns:
        (N, P, C).
    """
    scale = torch.tensor([maps.shape[-1], maps.shape[-2]], dtype=maps.dtype, device=maps.device)
    grid = (2 * xy.to(maps.dtype) + 1) / scale - 1
    out = F.grid_sample(maps, grid[:, :, None], padding_mode="border", align_corners=False)
    return out[..., 0].transpose(1, 2)


def sample_each(maps: torch.Tensor, index: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Bilinear values as `sample` gives them, each point of a map of its own; no map is copied.

    Args:
        maps: (N, C, H, W). index: (P,) int64, the map of each point. xy: (P, 2) in cells of the map.

    Returns:
        (P, C), at least as precise as `xy`.
    """
    height, width = maps.shape[-2:]
    x, y = xy[:, 0].clamp(0, width - 1), xy[:, 1].clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    upper = maps[index, :, top, left] * (1 - dx) + maps[index, :, top, right] * dx
    lower = maps[index, :, bottom, left] * (1 - dx) + maps[index, :, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def resized(maps: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, h, w) -> (B, C, size, size), bilinear, half-pixel convention."""
    if maps.shape[-2:] == (size, size):
        return maps
    last = maps.contiguous(memory_format=torch.channels_last)  # ten times as fast as channels first, on a CPU
    return F.interpolate(last, (size, size), mode="bilinear", align_corners=False)


def cells(grid: int) -> Points:
    """Centres (G*G, 2) of the cells of a G x G grid in row-major order, in grid coordinates."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return np.stack([x, y], axis=1).astype(np.float32)
