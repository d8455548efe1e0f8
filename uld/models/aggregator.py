"""The aggregator: one map of descriptors from the feature maps of many layers and timesteps (D-ULD, equation 2)."""

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld.base.errors import ULDError
from uld.geometry.sampling import resized

_WITHOUT = "set starts.*.network.published to null"  # as a remedy
PUBLISHED = {"middle": 96, "width": 384, "groups": 32}  # the sizes of Diffusion Hyperfeatures (NeurIPS 2023)


class ConvNorm(nn.Module):
    """Convolution without bias, then group norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), or (B, outputs, size, size) resized before the norm."""
        x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        out: Tensor = self.norm(x if size is None else resized(x, size))
        return out


class Bottleneck(nn.Module):
    """B_l of equation 2: a residual bottleneck from the channels of one layer to W channels, never negative."""

    def __init__(self, inputs: int, middle: int, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, middle, 1, groups)
        self.conv2 = ConvNorm(middle, middle, 3, groups)
        self.conv3 = ConvNorm(middle, width, 1, groups)
        self.shortcut = ConvNorm(inputs, width, 1, groups)

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """(B, C, h, w) -> (B, W, h, w), or (B, W, size, size) as if the input had been resized to that.

        A 1 x 1 convolution without bias and bilinear resizing are linear and commute: what is resized is the fewer
        channels behind the convolutions that read the input.
        """
        middle = self.conv2(F.relu(self.conv1(x, size)))
        return F.relu(self.conv3(F.relu(middle)) + self.shortcut(x, size))


class Aggregator(nn.Module):
    """F = sum over layers l and timesteps t of w_lt B_l(r_lt), with B_l shared by the timesteps and w a softmax."""

    def __init__(
        self,
        names: list[str],
        channels: list[int],
        middle: int,
        width: int,
        groups: int,
        grid: int,
        aggregate_at: Literal["native", "grid"] = "native",
    ) -> None:
        """Start with equal mixing weights.

        Args:
            names: feature maps `l<block><resnet>_t<timestep>`; all timesteps of a layer have the same shape.
            channels: C of each.
            middle: channels inside a bottleneck. width: W. groups: of every group norm. grid: G.
            aggregate_at: where the bottlenecks work. `native`: each at its layer's own resolution, resized afterwards;
                `grid`: after resizing, as the paper says and Diffusion Hyperfeatures (NeurIPS 2023) does. Different
                functions, since the 3 x 3 convolution and the norms see other neighbours and other means.
        """
        super().__init__()
        self.names, self.channels, self.grid, self.aggregate_at = names, channels, grid, aggregate_at
        self.middle, self.width, self.groups = middle, width, groups
        layers = list(dict.fromkeys(name.split("_")[0] for name in names))
        self.layer = [layers.index(name.split("_")[0]) for name in names]
        of_layer = dict(zip(self.layer, channels, strict=True))
        self.bottleneck_layers = nn.ModuleList(
            nn.Sequential(Bottleneck(of_layer[i], middle, width, groups)) for i in range(len(layers))
        )
        self.mixing_weights = nn.Parameter(torch.ones(len(names)))

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, for a file."""
        keys = ("names", "channels", "middle", "width", "groups", "grid", "aggregate_at")
        return {key: getattr(self, key) for key in keys}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """{name: (B, C, h, w)} -> (B, W, G, G), bilinear between cells, never negative."""
        weight = self.mixing_weights.softmax(0)
        size = self.grid if self.aggregate_at == "grid" else None
        total = weight.new_zeros(())
        for number in range(len(self.bottleneck_layers)):
            members = [i for i, layer in enumerate(self.layer) if layer == number]
            batch = torch.cat([features[self.names[i]].to(weight.device) for i in members])
            bottleneck = self.bottleneck_layers.get_submodule(f"{number}.0")
            maps = bottleneck(batch, size).unflatten(0, (len(members), -1))
            total = total + resized(torch.einsum("t,tbchw->bchw", weight[members], maps), self.grid)
        return total


def published(path: Path, names: list[str], channels: list[int], grid: int) -> Aggregator:
    """The aggregator of a checkpoint of Diffusion Hyperfeatures (NeurIPS 2023), bottlenecks at the grid.

    These weights were trained on labelled key points (SPair-71k: 18 classes, people and cats among them), so a result
    that uses them is not unsupervised. The file counts its mixing weights timestep by timestep, the clean image
    first, and within a timestep layer by layer, the deepest first.

    Args:
        path: the published file; nothing in it is executed.
        names, channels: feature maps in any order. As published: all 12 layers of Stable Diffusion's decoder at
            the 11 timesteps -1, 60, 160, ..., 960 of the policy `invert`.
        grid: G, 64 as published.

    Raises:
        ULDError: the file is missing or no such checkpoint, was made for other layers or timesteps, or is damaged.
    """
    order = sorted(range(len(names)), key=lambda i: (int(names[i].split("_t")[1]), names[i]))
    model = Aggregator(
        [names[i] for i in order], [channels[i] for i in order], **PUBLISHED, grid=grid, aggregate_at="grid"
    )
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["aggregation_network"]
        have = {name: _shape(value) for name, value in state.items()}
    except FileNotFoundError as error:
        raise ULDError(f"{path} is missing: put the checkpoint there, or {_WITHOUT}.") from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, AttributeError) as error:
        raise ULDError(
            f"{path} is no checkpoint of Diffusion Hyperfeatures: name a published one, or {_WITHOUT}."
        ) from error
    want = {name: _shape(value) for name, value in model.state_dict().items()}
    wrong = [name for name in {**want, **have} if want.get(name) != have.get(name)]
    if wrong:
        raise ULDError(
            f"{path} was made for other features: {wrong[0]} is {have.get(wrong[0], 'not there')} in the file and "
            f"{want.get(wrong[0], 'not there')} for {len(names)} maps of {len(model.bottleneck_layers)} layers. "
            "Set layers and timesteps of readout and of the start's network to those of the checkpoint, and reduce to "
            f"null; or {_WITHOUT}."
        )
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ULDError(f"{path} is damaged, {broken[0]} is not finite: fetch the file again, or {_WITHOUT}.")
    model.load_state_dict(state)
    return model.eval()


def _shape(value: Tensor) -> list[int]:
    return list(value.shape)
