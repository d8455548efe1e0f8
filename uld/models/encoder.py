"""A plain convolutional encoder of images with the two heads of D-ULD: the smallest model that reads pixels."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.models.headed import quiet, two_layers
from uld.models.on_crops import CropModel
from uld.models.pose import PoseVAE


@dataclass(frozen=True, config=CLOSED)
class EncoderParams:
    """Sizes of the encoder."""

    grid: Annotated[int, Field(ge=2)]  # G; the crop's side over a power of two
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]  # channels behind each convolution
    dims: Annotated[int, Field(ge=1)]  # D, descriptor length
    hidden: Annotated[int, Field(ge=1)]  # channels inside a head
    groups: Annotated[int, Field(ge=1)]  # of every group norm


class Encoder(CropModel):
    """Images (B, 3, S, S) in [0, 1] -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G).

    The first convolutions halve the image until it has G cells a side; the others see twice as far each, so that a cell
    knows what lies around it at full resolution.
    """

    ARGUMENTS = ("size", "grid", "widths", "dims", "hidden", "channels")

    def __init__(
        self,
        size: int,
        grid: int,
        widths: list[int],
        dims: int,
        hidden: int,
        groups: int,
        channels: int = 1,
        pose: PoseVAE | None = None,
    ) -> None:
        """Start with random weights.

        Args:
            size: S, the crop's side in pixels. grid, widths, dims, hidden, groups: as in `EncoderParams`.

        Raises:
            ParamsError: S is not G times a power of two, there are fewer convolutions than halvings, or a width cannot
                be divided into the groups.
        """
        super().__init__()
        halvings = max(0, (size // grid).bit_length() - 1)
        if size != grid * 2**halvings or halvings > len(widths):
            raise ParamsError(
                f"starts: network.grid {grid} must be the crop's side {size} over a power of two, which takes at most "
                f"{len(widths)} halvings (one a convolution in network.widths)."
            )
        if any(width % groups for width in [*widths, hidden]):
            raise ParamsError(f"starts: network.widths and hidden must be multiples of network.groups, {groups}.")
        self.size, self.grid, self.widths, self.dims = size, grid, list(widths), dims
        self.hidden, self.groups_of_norm, self.channels = hidden, groups, channels
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
            layers += [_convolution(inputs, outputs, number, halvings), nn.GroupNorm(groups, outputs), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.descriptor_head: nn.Module = nn.Conv2d(widths[-1], dims, 1)
        self.detector_head = two_layers(widths[-1], hidden, channels, groups)
        quiet(self.detector_head[-1])  # type: ignore[arg-type]
        self.pose = pose

    def see(self, images: Tensor) -> Tensor:
        """See `CropModel`."""
        seen: Tensor = self.trunk(2 * images - 1)
        return seen


def _convolution(inputs: int, outputs: int, number: int, halvings: int) -> nn.Conv2d:
    """Convolution `number` of the trunk: one of the halvings, or one that sees twice as far as the last."""
    if number < halvings:
        return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
    reach = 2 ** (number - halvings)
    return nn.Conv2d(inputs, outputs, 3, padding=reach, dilation=reach)
