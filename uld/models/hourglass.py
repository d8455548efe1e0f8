"""The hourglass of Mallis (thesis, 2023, chapter 6) on images, with a head that describes and one that detects."""

from copy import deepcopy
from itertools import pairwise
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.models.headed import quiet
from uld.models.on_crops import CropModel
from uld.models.pose import PoseVAE


@dataclass(frozen=True, config=CLOSED)
class HourglassParams:
    """Sizes; in the thesis grid 64 for crops of 256 pixels, width 256, depth 4, dims 256, groups 32."""

    grid: Annotated[int, Field(ge=2)]  # G; half or a quarter of the crop's side
    width: Annotated[int, Field(ge=8)]  # channels; a multiple of 8 groups
    depth: Annotated[int, Field(ge=1)]  # halvings of the grid
    dims: Annotated[int, Field(ge=1)]  # D, descriptor length
    groups: Annotated[int, Field(ge=1)]  # of every group norm


class Hourglass(CropModel):
    """Images (B, 3, S, S) in [0, 1] -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G).

    A stem brings the image to G cells a side. The hourglass halves that `depth` times and adds each level to what comes
    back from below, so that a cell knows the whole object and its own place. Each head begins with a block of its own.
    """

    ARGUMENTS = ("size", "grid", "width", "depth", "dims", "channels")

    def __init__(
        self,
        size: int,
        grid: int,
        width: int,
        depth: int,
        dims: int,
        groups: int,
        channels: int = 1,
        pose: PoseVAE | None = None,
    ) -> None:
        """Start with random weights.

        Args:
            size: S, the crop's side in pixels. grid, width, depth, dims, groups: as in `HourglassParams`.

        Raises:
            ParamsError: S is neither 2 G nor 4 G, G cannot be halved so often, or the width cannot be divided into the
                groups.
        """
        super().__init__()
        if size not in (2 * grid, 4 * grid):
            raise ParamsError(
                f"starts: network.grid {grid} must be half or a quarter of the crop's side {size} (roi.crop)."
            )
        if grid % 2**depth:
            raise ParamsError(f"starts: network.grid {grid} cannot be halved {depth} times: lower network.depth.")
        if width % (8 * groups):
            raise ParamsError(
                f"starts: network.width {width} must be a multiple of {8 * groups}, eight times network.groups."
            )
        self.size, self.grid, self.width, self.depth, self.dims = size, grid, width, depth, dims
        self.groups_of_norm, self.channels = groups, channels
        self.stem = _stem(width, groups, pool=size == 4 * grid)
        self.body = Level(width, depth, groups)
        self.descriptor_head: nn.Sequential = _head(width, dims, groups)
        self.detector_head = _head(width, channels, groups)
        quiet(self.detector_head[-1])  # type: ignore[arg-type]
        self.pose = pose

    def with_channels(self, channels: int) -> Self:
        """The same model whose detector has C = `channels` heat maps and goes on from the descriptor head.

        That head knows one point of the object from another, the detector of points knows points from no points: the
        thesis has the new last layer on the former.
        """
        other = deepcopy(self)
        other.detector_head = deepcopy(self.descriptor_head)
        return super(Hourglass, other).with_channels(channels)

    def see(self, images: Tensor) -> Tensor:
        """See `CropModel`."""
        seen: Tensor = self.body(self.stem(images))
        return seen


class Block(nn.Module):
    """A hierarchical residual block (Bulat and Tzimiropoulos, ICCV 2017): three convolutions, each on the one before.

    Their outputs, a half, a quarter and a quarter of the channels, stand side by side and are added to the input.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        """From `inputs` channels to `outputs`, a multiple of 4."""
        super().__init__()
        widths = [inputs, outputs // 2, outputs // 4, outputs // 4]
        self.steps = nn.ModuleList(_step(a, b, 3, groups) for a, b in pairwise(widths))
        self.past = nn.Identity() if inputs == outputs else _step(inputs, outputs, 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        found = [x]
        for step in self.steps:
            found.append(step(found[-1]))
        seen: Tensor = torch.cat(found[1:], 1) + self.past(x)
        return seen


class Level(nn.Module):
    """A level of the hourglass: a block at this size, added to what the levels below it say."""

    def __init__(self, width: int, depth: int, groups: int) -> None:
        """With `depth` - 1 levels below the next halving."""
        super().__init__()
        self.past, self.down, self.up = (Block(width, width, groups) for _ in range(3))
        self.below = Block(width, width, groups) if depth == 1 else Level(width, depth - 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        small = self.up(self.below(self.down(F.avg_pool2d(x, 2))))
        seen: Tensor = self.past(x) + F.interpolate(small, scale_factor=2, mode="nearest")
        return seen


def _step(inputs: int, outputs: int, side: int, groups: int) -> nn.Sequential:
    """Norm, ReLU, convolution."""
    convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(nn.GroupNorm(groups, inputs), nn.ReLU(), convolution)


def _stem(width: int, groups: int, *, pool: bool) -> nn.Sequential:
    """An image at half its size, or at a quarter, with `width` channels."""
    few, half = width // 4, width // 2
    return nn.Sequential(
        nn.Conv2d(3, few, 7, stride=2, padding=3),
        nn.GroupNorm(groups, few),
        nn.ReLU(),
        Block(few, half, groups),
        nn.AvgPool2d(2) if pool else nn.Identity(),
        Block(half, half, groups),
        Block(half, width, groups),
    )


def _head(width: int, outputs: int, groups: int) -> nn.Sequential:
    """A block, then two layers on each cell by itself."""
    return nn.Sequential(
        Block(width, width, groups),
        nn.Conv2d(width, width, 1),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
        nn.Conv2d(width, outputs, 1),
    )
