"""What models of images have in common that have a head that describes and one that detects."""

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from uld.models.base import Inputs, Maps
from uld.models.headed import Headed
from uld.models.pose import PoseVAE


class CropModel(Headed):
    """Images (B, 3, S, S) in [0, 1] -> descriptors (B, D, G, G) of unit length and heat maps (B, C, G, G)."""

    reads_pixels = True
    ARGUMENTS: ClassVar[tuple[str, ...]]  # of the constructor, but for `groups` and `pose`: attributes of these names
    groups_of_norm: int

    @classmethod
    def of(cls, about: dict[str, Any]) -> Self:
        """The model with the arguments that `about` gave."""
        pose = about["pose"]
        return cls(**about | {"pose": None if pose is None else PoseVAE(**pose)})

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, as a JSON tree."""
        pose = None if self.pose is None else self.pose.about()
        return {key: getattr(self, key) for key in self.ARGUMENTS} | {"groups": self.groups_of_norm, "pose": pose}

    def forward(self, inputs: Inputs) -> Maps:
        """Descriptors, logits of the heat maps, and pose codes where there is a pose part."""
        seen = self._seen(inputs)
        return self.coded(F.normalize(self.descriptor_head(seen), dim=1), self.detector_head(seen))

    def describe(self, inputs: Inputs) -> Tensor:
        """Descriptors alone."""
        return F.normalize(self.descriptor_head(self._seen(inputs)), dim=1)

    def _seen(self, inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        return self.see(inputs)

    @abstractmethod
    def see(self, images: Tensor) -> Tensor:
        """What the trunk makes of images: (B, W, G, G), which both heads stand on."""
