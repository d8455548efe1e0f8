"""What a model is: it reads images, or features of them, and says what lies where on a grid."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from uld.base import ranks

Inputs = Tensor | dict[str, Tensor]  # images (B, 3, S, S) in [0, 1], or feature maps by name {name: (B, C, h, w)}


@dataclass(frozen=True)
class Maps:
    """What a model says of B views; what it does not tell is None.

    descriptors (B, D, G, G) of unit length; logits (B, C, G, G) of C heat maps; code (B, L), a pose code.
    """

    descriptors: Tensor | None = None
    logits: Tensor | None = None
    code: Tensor | None = None

    @property
    def heat(self) -> Tensor:
        """Heat maps (B, C, G, G) in [0, 1]."""
        assert self.logits is not None, "the model has no detector"
        return self.logits.sigmoid()

    @property
    def looks(self) -> Tensor:
        """The descriptors, of a model that has them."""
        assert self.descriptors is not None, "the model has no descriptors"
        return self.descriptors

    def each(self, change: Callable[[Tensor], Tensor]) -> "Maps":
        """With a function of each part that is there."""
        return Maps(*(None if one is None else change(one) for one in (self.descriptors, self.logits, self.code)))


class Model(nn.Module, ABC):
    """A network that rounds and rows begin at.

    `grid` is G, `dims` is D, `channels` is C, the number of heat maps, 0 without a detector; `reads_pixels` says
    whether inputs are images or feature maps.
    """

    reads_pixels: ClassVar[bool] = False
    grid: int
    channels: int
    dims: int

    @classmethod
    @abstractmethod
    def of(cls, about: dict[str, Any]) -> Self:
        """The model with the arguments that `about` gave; its weights are yet to be loaded."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, as a JSON tree."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> Maps:
        """All that the model says of B views."""

    def describe(self, inputs: Inputs) -> Tensor:
        """Descriptors (B, D, G, G) alone, where that is cheaper."""
        return self(inputs).looks

    def maps_read(self) -> list[str]:
        """Names of the feature maps that the model reads; none where it reads images."""
        return []

    def prepared(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model reads, made of the features of a network: those themselves, unless a part of it is frozen."""
        return features

    @property
    def encodes(self) -> bool:
        """Whether the model has pose codes."""
        return False


def whole(maps: Maps, count: int) -> Maps:
    """What all processes say of the `count` views of a batch, from what this one says of its share (`ranks.share`)."""
    return maps.each(lambda part: ranks.whole(part, count))
