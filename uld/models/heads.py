"""The trained model Psi of the D-ULD family: aggregator, descriptor head and detector head on frozen features.

Descriptors begin as those of the training-free model and learn what to add to them, so a round of self-training starts
from what ZeroShot knows instead of from noise.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base.params import CLOSED
from uld.models.aggregator import Aggregator
from uld.models.base import Inputs, Maps
from uld.models.frozen import Frozen
from uld.models.headed import Headed, quiet, two_layers
from uld.models.pose import PoseVAE

# `linear`: a matrix on the training-free descriptors; `convolution`: a head on the aggregated map, as in the paper
Descriptor = Literal["linear", "convolution"]

# arrays of a store that holds what a frozen trunk makes (uld/diffusion/aggregated.py), read in place of feature maps
BASE, AGGREGATED = "base", "aggregated"


@dataclass(frozen=True, config=CLOSED)
class HeadsParams:
    """Sizes of the trained model."""

    layers: tuple[tuple[int, int], ...]  # (block, resnet) that the aggregator reads
    timesteps: tuple[int, ...]
    middle: Annotated[int, Field(ge=1)]  # channels inside a bottleneck
    width: Annotated[int, Field(ge=1)]  # W, channels of the aggregated map
    groups: Annotated[int, Field(ge=1)]  # of every group norm
    hidden: Annotated[int, Field(ge=1)]  # channels inside a head
    descriptor: Descriptor
    aggregate_at: Literal["native", "grid"]
    published: str | None  # a checkpoint of Diffusion Hyperfeatures to start from; it saw labels


class Heads(Headed):
    """Feature maps -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G).

    C is 1 (where there are points, D-ULD) or K (a channel a landmark, stage 2 of Mallis).

    The trunk is the training-free model `base` and the aggregator. With `frozen_trunk` neither runs and both learn
    nothing: the model reads the maps that they made once (`trunk`).
    """

    def __init__(
        self,
        base: Frozen,
        aggregator: Aggregator,
        hidden: int,
        descriptor: Descriptor,
        channels: int = 1,
        pose: PoseVAE | None = None,
        frozen_trunk: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.aggregate, self.hidden, self.descriptor = base, aggregator, hidden, descriptor
        self.grid, self.dims, self.channels, self.frozen_trunk = base.grid, base.dims, channels, frozen_trunk
        last = nn.Conv2d(self.dims, self.dims, 1)
        self.descriptor_head: nn.Module = last
        if descriptor == "convolution":
            self.descriptor_head = head = two_layers(aggregator.width, hidden, self.dims, aggregator.groups)
            last = head[-1]  # type: ignore[assignment]
        nn.init.zeros_(last.weight)  # adds nothing yet
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.detector_head = two_layers(aggregator.width, hidden, channels, aggregator.groups)
        quiet(self.detector_head[-1])  # type: ignore[arg-type]
        for number, size in enumerate(aggregator.channels):
            self.register_buffer(f"scale{number}", torch.ones(size, 1, 1))
        self.pose = pose

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Heads":
        """The model with the arguments that `about` gave."""
        parts = {"base": Frozen.of(about["base"]), "aggregator": Aggregator(**about["aggregator"])}
        pose = about["pose"]
        return cls(**about | parts | {"pose": None if pose is None else PoseVAE(**pose)})

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, as a JSON tree."""
        keys = ("hidden", "descriptor", "channels", "frozen_trunk")
        parts = {"base": self.base.about(), "aggregator": self.aggregate.about()}
        pose = None if self.pose is None else self.pose.about()
        return parts | {key: getattr(self, key) for key in keys} | {"pose": pose}

    def maps_read(self) -> list[str]:
        """Names of the feature maps that the model reads."""
        return [BASE, AGGREGATED] if self.frozen_trunk else self.maps_of_trunk()

    def maps_of_trunk(self) -> list[str]:
        """Names of the feature maps that the trunk reads."""
        return list(dict.fromkeys([*self.base.names, *self.aggregate.names]))

    def trunk(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Training-free descriptors (B, D, G, G) and the aggregated map (B, W, G, G) of what the trunk reads."""
        return {BASE: self.base.describe(features), AGGREGATED: self._aggregated(features)}

    def prepared(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the trunk makes of features, if it is frozen."""
        return self.trunk(features) if self.frozen_trunk else features

    def forward(self, inputs: Inputs) -> Maps:
        """Descriptors, logits of the heat maps, and pose codes where there is a pose part."""
        assert isinstance(inputs, dict)
        aggregated = self._aggregated(inputs)
        return self.coded(self._described(inputs, aggregated), self.detector_head(aggregated))

    def describe(self, inputs: Inputs) -> Tensor:
        """Descriptors alone."""
        assert isinstance(inputs, dict)
        # linear descriptors need no aggregated map
        return self._described(inputs, None if self.descriptor == "linear" else self._aggregated(inputs))

    def _aggregated(self, features: dict[str, Tensor]) -> Tensor:
        if self.frozen_trunk and AGGREGATED in features:
            return features[AGGREGATED].to(self.base.offset.device)
        return self.aggregate({name: self._scaled(features[name], i) for i, name in self._numbered()})

    def _described(self, features: dict[str, Tensor], aggregated: Tensor | None) -> Tensor:
        known = self.frozen_trunk and BASE in features
        base = features[BASE].to(self.base.offset.device) if known else self.base.describe(features)
        return F.normalize(base + self.descriptor_head(base if self.descriptor == "linear" else aggregated), dim=1)

    def fit_scale(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Take the spread of each channel from batches of images {name: (n, C, h, w)}, image means taken off."""
        squares = [torch.zeros(()).double()] * len(self.aggregate.names)
        count = [0] * len(self.aggregate.names)
        for features in batches:
            for i, name in self._numbered():
                value = features[name].to(self.base.offset.device)
                off = value - value.mean((2, 3), keepdim=True)
                squares[i] = squares[i] + off.double().square().sum((0, 2, 3))
                count[i] += value[:, 0].numel()
        for i, _ in self._numbered():
            std = (squares[i] / max(1, count[i] - 1)).sqrt().clamp_min(1e-6)
            self.get_buffer(f"scale{i}").copy_(std[:, None, None])

    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.aggregate.names))

    def _scaled(self, value: Tensor, number: int) -> Tensor:
        value = value.to(self.base.offset.device)
        return (value - value.mean((2, 3), keepdim=True)) / self.get_buffer(f"scale{number}")
