"""Points as heat maps: what a detector learns to put out."""

import torch
from torch import Tensor

DISTANCES = 2**24  # cells x points at a time: bounds the memory whatever the number of points


def render(xy: Tensor, grid: int, sigma: float) -> Tensor:
    """The maximum, and not the sum, over an image's points of Gaussians of height 1.

    Args:
        xy: (B, K, 2) float, in cells, NaN where absent.
        grid: G, cells a side.
        sigma: standard deviation in cells; 0: the cell that a point lies in is 1, all others 0.

    Returns:
        (B, G, G) in [0, 1], on the device of `xy`; 0 where an image has no point.
    """
    if sigma == 0:
        xy, sigma = (xy + 0.5).floor(), 1e-3
    cells = torch.arange(grid, dtype=xy.dtype, device=xy.device)
    x, y = (xy[..., None] - cells).square().nan_to_num(torch.inf).unbind(2)
    # the highest Gaussian is that of the nearest point
    nearest = xy.new_full((len(xy), grid, grid), torch.inf)
    step = max(1, DISTANCES // max(1, nearest.numel()))
    for start in range(0, xy.shape[1], step):
        points = slice(start, start + step)
        nearest = torch.minimum(nearest, (y[:, points, :, None] + x[:, points, None]).amin(1))
    return (nearest / (-2 * sigma**2)).exp()
