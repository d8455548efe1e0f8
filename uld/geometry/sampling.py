"""Values of images and maps between their pixels, on the device; the conventions are those of `coords`."""

import numpy as np
import torch
import torch.nn.functional as F

from uld.geometry import coords


def warp(images: torch.Tensor, affine: coords.Affine, padding: str = "reflection") -> torch.Tensor:
    """Resample square images into another frame of the same size.

    Args:
        images: (N, C, S, S) float.
        affine: (2, 3), old pixel -> new pixel.
        padding: what lies outside: `reflection`, `border` or `zeros`.

    Returns:
        (N, C, S, S), bilinear. Multiples of a quarter turn and the mirror are exact.
    """
    size = images.shape[-1]
    back = coords.invert(affine)
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
