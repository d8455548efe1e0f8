"""Models that rounds of self-training can train: a trunk with a head that describes and one that detects."""

from copy import deepcopy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from uld.base.errors import ULDError
from uld.models.base import Maps, Model
from uld.models.pose import QUIET, PoseVAE

COLLAPSED = 0.98  # squared length of an image's mean descriptor above which its cells look alike


class Headed(Model):
    """A model that rounds can train: a trunk, then a head that describes and one that detects.

    `pose` reads pose codes off the heat maps (D-ULD++), or is None; what the other parts say does not depend on it.
    """

    descriptor_head: nn.Module
    detector_head: nn.Sequential
    pose: PoseVAE | None

    @property
    def encodes(self) -> bool:
        """Whether the model has pose codes."""
        return self.pose is not None

    def coded(self, descriptors: Tensor, logits: Tensor) -> Maps:
        """With the pose code of the highest of an image's heat maps; not while training, where none is asked for."""
        if self.pose is None or self.training:
            return Maps(descriptors, logits)
        return Maps(descriptors, logits, self.pose.encode(logits.sigmoid().amax(1, keepdim=True))[0])

    def groups(self, lr: float, descriptor_lr: float) -> list[dict[str, Any]]:
        """Trained parameters for an optimiser, the descriptor head's with a learning rate of its own.

        A pose part is among the others.
        """
        own = {id(one) for one in self.descriptor_head.parameters()}
        rest = [one for one in self.parameters() if id(one) not in own]
        return [{"params": rest, "lr": lr}, {"params": list(self.descriptor_head.parameters()), "lr": descriptor_lr}]

    def with_channels(self, channels: int) -> Self:
        """The same model with a new last layer of the detector, for C = `channels` heat maps."""
        other = deepcopy(self)
        last = other.detector_head[-1]
        assert isinstance(last, nn.Conv2d)
        other.detector_head[-1] = quiet(nn.Conv2d(last.in_channels, channels, 1)).to(last.weight.device)
        other.channels = channels
        return other

    def kept_channels(self, kept: NDArray[np.int64]) -> Self:
        """The same model with some of its heat maps, `kept` (C,) in their order; what they say does not change."""
        other = deepcopy(self)
        last = other.detector_head[-1]
        assert isinstance(last, nn.Conv2d)
        index = torch.from_numpy(kept).to(last.weight.device)
        fewer = nn.Conv2d(last.in_channels, len(kept), 1)
        fewer.load_state_dict({name: value[index] for name, value in last.state_dict().items()})
        other.detector_head[-1] = fewer.to(last.weight.device)
        other.channels = len(kept)
        return other

    def with_pose(self, pose: PoseVAE) -> Self:
        """The same model with this pose part."""
        other = deepcopy(self)
        other.pose = pose.to(next(self.parameters()).device)
        return other


def two_layers(inputs: int, hidden: int, outputs: int, groups: int) -> nn.Sequential:
    """A head on a map (B, inputs, G, G) -> (B, outputs, G, G)."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.GroupNorm(groups, hidden), nn.Conv2d(hidden, outputs, 1)
    )


def quiet(last: nn.Conv2d) -> nn.Conv2d:
    """The last layer of a detector, told to begin with few points, as in the targets."""
    assert last.bias is not None
    nn.init.constant_(last.bias, QUIET)
    return last


def refuse_collapse(descriptors: Tensor, name: str) -> None:
    """Raise if all cells of a view look alike: nothing can be told from such descriptors.

    Args:
        descriptors: (B, D, G, G) of unit length. name: of the run, for the message.
    """
    alike = float(descriptors.detach().mean((2, 3)).square().sum(1).mean())
    if alike > COLLAPSED:
        raise ULDError(f"{name}: all descriptors of an image have become alike ({alike:.3f}): lower the learning rate.")
