"""The trained model Psi of the D-ULD family: aggregator, descriptor head and detector head on frozen features.

Two kinds of descriptors are the paper's: the aggregated map F_ag itself (`aggregated`, equation 2), and what the
descriptor head makes of it (`head`, section 3.2). The two others are ours: they begin as the descriptors of the
training-free model and learn what to add to them (`linear`, `convolution`), so a round of self-training starts from
what ZeroShot knows instead of from noise.
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

# what is added to the training-free descriptors: `linear`, a matrix on these; `convolution`, a head on the aggregated
# map. Without them, as in the paper: `head`, the head on the aggregated map; `aggregated`, the map itself
Descriptor = Literal["linear", "convolution", "head", "aggregated"]

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

    @property
    def begins_frozen(self) -> bool:
        """Whether descriptors begin as those of the training-free model."""
        return self.descriptor in ("linear", "convolution")


class Heads(Headed):
    """Feature maps -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G).

    C is 1 (where there are points, D-ULD) or K (a channel a landmark, stage 2 of Mallis).

    The trunk is the training-free model `base`, where descriptors begin as its own, and the aggregator. With
    `frozen_trunk` neither runs and both learn nothing: the model reads the maps that they made once (`trunk`).
    """

    def __init__(
        self,
        base: Frozen | None,
        aggregator: Aggregator,
        hidden: int,
        descriptor: Descriptor,
        channels: int = 1,
        pose: PoseVAE | None = None,
        frozen_trunk: bool = False,
        dims: int | None = None,
        scaled: bool = True,
    ) -> None:
        """Begin as the training-free model, or with random weights.

        Args:
            base: the training-free model; None: descriptors owe nothing to one.
            aggregator: makes the map that the heads read.
            hidden: channels inside a head.
            descriptor: what descriptors are made of.
            channels: C.
            pose: the part that makes pose codes, of D-ULD++.
            frozen_trunk: whether the model reads what the trunk has made.
            dims: D of a model without `base`; None: W.
            scaled: whether the aggregator reads channels without their mean over the image and of equal spread. A
                published checkpoint reads them as the network has made them.
        """
        super().__init__()
        self.base, self.aggregate, self.hidden, self.descriptor = base, aggregator, hidden, descriptor
        self.grid, self.channels, self.frozen_trunk, self.scaled = aggregator.grid, channels, frozen_trunk, scaled
        self.dims = base.dims if base is not None else dims or aggregator.width
        self.descriptor_head = self._new_descriptor_head()
        self.detector_head = two_layers(aggregator.width, hidden, channels, aggregator.groups)
        quiet(self.detector_head[-1])  # type: ignore[arg-type]
        for number, size in enumerate(aggregator.channels):
            self.register_buffer(f"scale{number}", torch.ones(size, 1, 1))
        self.pose = pose

    def _new_descriptor_head(self) -> nn.Module:
        """With a base it adds nothing yet."""
        if self.descriptor == "aggregated":
            return nn.Identity()
        last = nn.Conv2d(self.dims, self.dims, 1)
        head: nn.Module = last
        if self.descriptor != "linear":
            layers = two_layers(self.aggregate.width, self.hidden, self.dims, self.aggregate.groups)
            head, last = layers, layers[-1]  # type: ignore[assignment]
        if self.base is not None:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        return head

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Heads":
        """The model with the arguments that `about` gave."""
        base, pose = about["base"], about["pose"]
        parts = {"base": None if base is None else Frozen.of(base), "aggregator": Aggregator(**about["aggregator"])}
        return cls(**about | parts | {"pose": None if pose is None else PoseVAE(**pose)})

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, as a JSON tree."""
        keys = ("hidden", "descriptor", "channels", "frozen_trunk", "dims", "scaled")
        parts = {"base": None if self.base is None else self.base.about(), "aggregator": self.aggregate.about()}
        pose = None if self.pose is None else self.pose.about()
        return parts | {key: getattr(self, key) for key in keys} | {"pose": pose}

    def maps_read(self) -> list[str]:
        """Names of the feature maps that the model reads."""
        return list(self.trunk_shapes) if self.frozen_trunk else self.maps_of_trunk()

    @property
    def trunk_shapes(self) -> dict[str, tuple[int, int, int]]:
        """{name: (C, G, G)} of what the trunk makes."""
        sizes = {} if self.base is None else {BASE: self.dims}
        sizes |= {AGGREGATED: self.aggregate.width}
        return {name: (size, self.grid, self.grid) for name, size in sizes.items()}

    def maps_of_trunk(self) -> list[str]:
        """Names of the feature maps that the trunk reads."""
        return list(dict.fromkeys([*(self.base.names if self.base else []), *self.aggregate.names]))

    def trunk(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the trunk makes: the aggregated map (B, W, G, G), and training-free descriptors where it has a base."""
        base = {} if self.base is None else {BASE: self.base.describe(features)}
        return base | {AGGREGATED: self._aggregated(features)}

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
            return features[AGGREGATED].to(self._device)
        return self.aggregate({name: self._scaled(features[name], i) for i, name in self._numbered()})

    def _described(self, features: dict[str, Tensor], aggregated: Tensor | None) -> Tensor:
        if self.base is None:
            return F.normalize(self.descriptor_head(aggregated), dim=1)
        known = self.frozen_trunk and BASE in features
        base = features[BASE].to(self._device) if known else self.base.describe(features)
        return F.normalize(base + self.descriptor_head(base if self.descriptor == "linear" else aggregated), dim=1)

    def fit_scale(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Take the spread of each channel from batches of images {name: (n, C, h, w)}, image means taken off."""
        squares = [torch.zeros(()).double()] * len(self.aggregate.names)
        count = [0] * len(self.aggregate.names)
        for features in batches:
            for i, name in self._numbered():
                value = features[name].to(self._device)
                off = value - value.mean((2, 3), keepdim=True)
                squares[i] = squares[i] + off.double().square().sum((0, 2, 3))
                count[i] += value[:, 0].numel()
        for i, _ in self._numbered():
            std = (squares[i] / max(1, count[i] - 1)).sqrt().clamp_min(1e-6)
            self.get_buffer(f"scale{i}").copy_(std[:, None, None])

    @property
    def _device(self) -> torch.device:
        return self.aggregate.mixing_weights.device

    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.aggregate.names))

    def _scaled(self, value: Tensor, number: int) -> Tensor:
        value = value.to(self._device)
        if not self.scaled:
            return value
        return (value - value.mean((2, 3), keepdim=True)) / self.get_buffer(f"scale{number}")
