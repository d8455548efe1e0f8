"""The trained model Psi of the D-ULD family: aggregator, descriptor head and detector head on frozen features.

Descriptors begin as those of the training-free head and learn what to add to them, so a round of self-training starts
from what ZeroShot knows instead of from noise.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base.errors import ArtifactError
from uld.base.params import CLOSED
from uld.diffusion.store import Features, FeatureStore
from uld.models.aggregator import Aggregator
from uld.models.frozen import FrozenHead
from uld.models.pose import QUIET, PoseVAE

# `linear`: a matrix on the training-free descriptors; `convolution`: a head on the aggregated map, as in the paper
Descriptor = Literal["linear", "convolution"]

# arrays of a store in which the aggregator rests (uld/diffusion/aggregated.py), read in place of feature maps
BASE, AGGREGATED = "base", "aggregated"


@dataclass(frozen=True, config=CLOSED)
class ModelParams:
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


class LearnedHead(nn.Module):
    """Features -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G) in [0, 1].

    C is 1 (where there are points, D-ULD) or K (a channel a landmark, stage 2 of Mallis). `pose`: what reads poses off
    the heat maps (D-ULD++), or None; of the model's parts it is the only one that `maps` does not use.

    Features may be `at_rest`: then the aggregator does not run and learns nothing.
    """

    def __init__(
        self,
        base: FrozenHead,
        aggregate: Aggregator,
        hidden: int,
        descriptor: Descriptor,
        channels: int = 1,
        pose: PoseVAE | None = None,
    ) -> None:
        super().__init__()
        self.base, self.aggregate, self.hidden, self.descriptor = base, aggregate, hidden, descriptor
        dims = len(base.offset)
        self.describe: nn.Module = nn.Conv2d(dims, dims, 1)
        if descriptor == "convolution":
            self.describe = _head(aggregate, hidden, dims)
        nn.init.zeros_(list(self.describe.parameters())[-2])  # adds nothing yet
        nn.init.zeros_(list(self.describe.parameters())[-1])
        self.detect, self.channels = _head(aggregate, hidden, channels), channels
        nn.init.constant_(list(self.detect.parameters())[-1], QUIET)
        for number, size in enumerate(aggregate.channels):
            self.register_buffer(f"scale{number}", torch.ones(size, 1, 1))
        self.pose = pose

    @property
    def grid(self) -> int:
        """G."""
        return self.base.grid

    @property
    def names(self) -> list[str]:
        """Feature maps that the model reads."""
        return list(dict.fromkeys([*self.base.names, *self.aggregate.names]))

    def reads(self, store: FeatureStore) -> list[str]:
        """Arrays of a store that the model wants: feature maps, or what its own aggregator made of them.

        Raises:
            ArtifactError: the store holds the maps of another aggregator.
        """
        if AGGREGATED not in store.names:
            return self.names
        if store.spec["aggregator"] != self.fingerprint():
            start = store.spec["start"]
            raise ArtifactError(
                f"{store.path} holds the maps of the start '{start}', and this model has another aggregator: let what "
                f"reads features: {start} begin at that start, or run `dvc repro aggregate@{start}`."
            )
        return [BASE, AGGREGATED]

    def at_rest(self, features: Features) -> Features:
        """What rounds leave as it is: training-free descriptors (B, D, G, G) and the aggregated map (B, W, G, G)."""
        return {BASE: self.base(features), AGGREGATED: self._aggregated(features)}

    def fingerprint(self) -> str:
        """SHA-256 of the parts that make what is `at_rest`."""
        digest = hashlib.sha256(json.dumps([self.base.about(), self.aggregate.about()], sort_keys=True).encode())
        for name, value in self.state_dict().items():
            if name.startswith(("base.", "aggregate.", "scale")):
                digest.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, features: Features) -> Tensor:
        """Descriptors only."""
        # linear descriptors need no aggregated map
        return self._described(features, None if self.descriptor == "linear" else self._aggregated(features))

    def maps(self, features: Features) -> tuple[Tensor, Tensor]:
        """Descriptors and the logits of the heat maps."""
        aggregated = self._aggregated(features)
        return self._described(features, aggregated), self.detect(aggregated)

    def _aggregated(self, features: Features) -> Tensor:
        if AGGREGATED in features:
            return features[AGGREGATED].to(self.base.offset.device)
        return self.aggregate({name: self._scaled(features[name], i) for i, name in self._numbered()})

    def _described(self, features: Features, aggregated: Tensor | None) -> Tensor:
        base = features[BASE].to(self.base.offset.device) if BASE in features else self.base(features)
        return F.normalize(base + self.describe(base if self.descriptor == "linear" else aggregated), dim=1)

    def fit_scale(self, batches: Iterable[Features]) -> None:
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

    def with_channels(self, channels: int) -> "LearnedHead":
        """The same model with a new last layer of the detector, for C = `channels` heat maps."""
        other = LearnedHead(self.base, self.aggregate, self.hidden, self.descriptor, channels, self.pose)
        last = f"detect.{len(self.detect) - 1}."
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(last)}
        other.load_state_dict(state, strict=False)
        return other.to(self.base.offset.device)

    def with_pose(self, pose: PoseVAE) -> "LearnedHead":
        """The same model with this pose part."""
        other = LearnedHead(self.base, self.aggregate, self.hidden, self.descriptor, self.channels, pose)
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("pose.")}
        other.load_state_dict(own, strict=False)
        return other.to(self.base.offset.device)

    def groups(self, lr: float, descriptor_lr: float) -> list[dict[str, Any]]:
        """Trained parameters for an optimiser, the descriptor head's with a learning rate of its own.

        A pose part is among the others.
        """
        own = {id(one) for one in self.describe.parameters()}
        rest = [one for one in self.parameters() if id(one) not in own]
        return [{"params": rest, "lr": lr}, {"params": list(self.describe.parameters()), "lr": descriptor_lr}]

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, for a file."""
        about = {
            "base": self.base.about(),
            "aggregator": self.aggregate.about(),
            "hidden": self.hidden,
            "descriptor": self.descriptor,
            "channels": self.channels,
        }
        return about if self.pose is None else about | {"pose": self.pose.about()}

    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.aggregate.names))

    def _scaled(self, value: Tensor, number: int) -> Tensor:
        value = value.to(self.base.offset.device)
        return (value - value.mean((2, 3), keepdim=True)) / self.get_buffer(f"scale{number}")


def _head(aggregate: Aggregator, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers on the aggregated map (B, W, G, G) -> (B, outputs, G, G)."""
    return nn.Sequential(
        nn.Conv2d(aggregate.width, hidden, 3, padding=1),
        nn.ReLU(),
        nn.GroupNorm(aggregate.groups, hidden),
        nn.Conv2d(hidden, outputs, 1),
    )
