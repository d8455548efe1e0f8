"""The pose part of D-ULD++ (CVPR 2024, section 3.3.1): a variational autoencoder of the detector's heat map.

Its code says how the object is turned, if the heat map says no more than that. Of a loosely cropped object a plain heat
map says first of all where it is and how large; `normalise: points` takes both off before the encoder looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from torch import Tensor, nn

from uld.base.errors import ParamsError, ULDError
from uld.base.params import CLOSED

Normalise = Literal["none", "points"]
QUIET = -3.0  # first logit of a heat map: few points, as in the targets
RADIUS = 0.2  # share of G: what lies within 2.5 times the RMS radius of the points stays in the map
CLOSEST = 4.0  # largest zoom: a lone point must not fill the map
FLOOR = 1e-8  # weight of a dark cell: a dark map has a frame too


@closed(frozen=True, config=CLOSED)
class PoseParams:
    """Sizes of the pose part."""

    code: Annotated[int, Field(ge=1)]  # C, length of the pose code
    # channels behind each halving of the heat map; the last is also the length of the hidden layer
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    groups: Annotated[int, Field(ge=1)]  # of every group norm
    normalise: Normalise  # points: heat maps are centred and scaled by their points; none: as in the paper


@dataclass(frozen=True)
class Frame:
    """A square of each heat map that becomes the whole map: new = (old - centre) * zoom + (G - 1) / 2.

    Args:
        centre: (B, 2), x and y in cells. zoom: (B,). grid: G.
    """

    centre: Tensor
    zoom: Tensor
    grid: int

    def maps(self, maps: Tensor) -> Tensor:
        """(B, C, G, G) in the frame, bilinear, 0 beyond the old map; differentiable in the maps."""
        shift = (2 * self.centre + 1) / self.grid - 1  # as affine_grid wants it: new -> old, from -1 to 1
        linear = torch.diag_embed((1 / self.zoom)[:, None].expand(-1, 2))
        cells = F.affine_grid(torch.cat([linear, shift[..., None]], dim=2), list(maps.shape), align_corners=False)
        return F.grid_sample(maps, cells, padding_mode="zeros", align_corners=False)

    def points(self, xy: Tensor) -> Tensor:
        """Points (B, P, 2) in cells of the old map -> cells of the frame."""
        return (xy - self.centre[:, None]) * self.zoom[:, None, None] + (self.grid - 1) / 2


def frame(heat: Tensor) -> Frame:
    """The frame in which the points of heat maps are centred and have the RMS radius `RADIUS` * G.

    First and second moments of the squared heat: of the plain heat, the many cells of a dim background would outweigh
    the few points. No gradient passes: what is learned from a map in its frame must not move the frame, or it could
    push the points out of it.

    Args:
        heat: (B, 1, G, G) in [0, 1]. A dark map has a frame like any other, that of evenly spread points; the points of
            an image with next to one of them are enlarged `CLOSEST` times and no more.
    """
    weight = heat.detach()[:, 0].square() + FLOOR
    weight = weight / weight.sum((1, 2), keepdim=True)
    grid = heat.shape[-1]
    cells = torch.arange(grid, dtype=heat.dtype, device=heat.device)
    over_x, over_y = weight.sum(1), weight.sum(2)
    centre = torch.stack([over_x @ cells, over_y @ cells], dim=1)
    off_x, off_y = (cells - centre[..., None]).square().unbind(1)
    radius = ((over_x * off_x).sum(1) + (over_y * off_y).sum(1)).sqrt()
    return Frame(centre, (RADIUS * grid / radius).clamp_max(CLOSEST), grid)


class PoseVAE(nn.Module):
    """Heat maps (B, 1, G, G) in [0, 1] -> pose codes (B, C) -> logits of heat maps (B, 1, G, G)."""

    def __init__(
        self, grid: int, code: int, widths: Sequence[int], groups: int, normalise: Normalise, decodes: bool = True
    ) -> None:
        """Start with a decoder that puts out few points.

        Args:
            grid: G. code, widths, groups, normalise: as in `PoseParams`. decodes: whether there is a decoder.

        Raises:
            ParamsError: the grid cannot be halved so often, or a width not be divided into the groups.
        """
        super().__init__()
        self.grid, self.code, self.widths, self.groups = grid, code, list(widths), groups
        self.normalise, self.decodes = normalise, decodes
        smallest, rest = divmod(grid, 2 ** len(widths))
        if rest:
            raise ParamsError(
                f"pose.widths: {len(widths)} of them halve the heat map as often, which a grid of {grid} cells a side "
                f"does not allow: give fewer, or make the start's grid a multiple of {2 ** len(widths)}."
            )
        if any(width % groups for width in widths):
            raise ParamsError(f"pose.widths: {self.widths} must be multiples of pose.groups, {groups}.")
        hidden, cells = widths[-1], widths[-1] * smallest**2
        layers: list[nn.Module] = []
        for inputs, outputs in zip([1, *widths], widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(groups, outputs), nn.SiLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(cells, hidden), nn.SiLU())
        self.mu, self.logvar = nn.Linear(hidden, code), nn.Linear(hidden, code)
        if not decodes:
            return
        layers = [nn.Linear(code, hidden), nn.SiLU(), nn.Linear(hidden, cells), nn.SiLU()]
        layers += [nn.Unflatten(1, (hidden, smallest, smallest))]
        for inputs, outputs in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1)]
            layers += [nn.GroupNorm(groups, outputs), nn.SiLU()]
        last = nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.constant_(list(last.parameters())[-1], QUIET)
        self.decoder = nn.Sequential(*layers, nn.Upsample(scale_factor=2), last)

    def forward(self, heat: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of what `reframe` makes of the target, and mean and log variance of the code.

        Args:
            heat: (B, 1, G, G) in [0, 1], as detected. noise: (B, C), standard normal.

        Returns:
            logits (B, 1, G, G), mu (B, C), logvar (B, C).

        Raises:
            ULDError: there is no decoder.
        """
        mu, logvar = self.encode(heat)
        return self.decode(mu + (logvar / 2).exp() * noise), mu, logvar

    def encode(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Heat maps (B, 1, G, G), as detected -> mu and logvar (B, C). The pose code is mu."""
        seen = self.encoder(self.reframe(heat, heat))
        return self.mu(seen), self.logvar(seen)

    def decode(self, code: Tensor) -> Tensor:
        """(B, C) -> logits (B, 1, G, G).

        Raises:
            ULDError: there is no decoder.
        """
        if not self.decodes:
            raise ULDError(
                "the pose part of this model has no decoder any more: begin this round at one before it was dropped."
            )
        logits: Tensor = self.decoder(code)
        return logits

    def reframe(self, maps: Tensor, heat: Tensor) -> Tensor:
        """Maps (B, M, G, G), such as targets, in the frame in which the encoder sees `heat` (B, 1, G, G)."""
        return maps if self.normalise == "none" else frame(heat).maps(maps)

    def without_decoder(self) -> "PoseVAE":
        """A copy with the encoder alone, which is all that the second step of D-ULD++ trains."""
        other = PoseVAE(**self.about() | {"decodes": False})
        other.load_state_dict({key: value for key, value in self.state_dict().items() if not key.startswith("decoder")})
        return other.to(self.mu.weight.device)

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, for a file."""
        keys = ("grid", "code", "widths", "groups", "normalise", "decodes")
        return {key: getattr(self, key) for key in keys}
