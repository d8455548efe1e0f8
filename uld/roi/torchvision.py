"""`torchvision`: Faster R-CNN (ResNet-50 FPN v2) with weights of a local file: COCO classes, or a user's own."""

from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base import runtime
from uld.base.errors import DataError, NotInstalled
from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider, fingerprint, largest


@dataclass(frozen=True, config=CLOSED)
class TorchvisionParams:
    """`weights`: a state dict; `label`: number of the class (COCO: 1 person, 17 cat); `threshold`: lowest score."""

    weights: str
    label: Annotated[int, Field(ge=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]


class Torchvision(Provider):
    """The box of largest score x area among those of the class."""

    Params = TorchvisionParams
    opens = ("weights",)

    def __init__(self, params: TorchvisionParams, context: Context) -> None:
        """Build the network and load its weights; nothing is downloaded.

        Raises:
            DataError: no such file, or no state dict of this network.
            NotInstalled: no torchvision.
        """
        path = Path(params.weights)
        if not path.is_file():
            raise DataError(
                f"{path} is missing: save the state dict of fasterrcnn_resnet50_fpn_v2 there, or mend "
                "roi_providers.torchvision.weights."
            )
        try:
            zoo = import_module("torchvision.models.detection")
        except ImportError as error:
            raise NotInstalled("roi.providers names torchvision: `pip install torchvision`.") from error
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            classes = len(state["roi_heads.box_predictor.cls_score.weight"])
            # without weights_backbone=None torchvision may fetch an ImageNet backbone
            self._network = zoo.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes)
            self._network.load_state_dict(state)
        except (RuntimeError, UnpicklingError, KeyError, TypeError, EOFError) as error:
            raise DataError(f"{path} is no state dict of fasterrcnn_resnet50_fpn_v2 ({error}).") from error
        self._device = runtime.device()
        self._network.eval().to(self._device)
        self._params = params
        self.label = f"torchvision:{fingerprint([path])}"

    @torch.inference_mode()
    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`; one image a pass, because padding to a batch's largest image changes the result."""
        return [self._object(image) for image in images]

    def _object(self, image: Pixels) -> Box | None:
        tensor = torch.from_numpy(image).to(self._device).permute(2, 0, 1).float() / 255
        (out,) = self._network([tensor])
        keep = (out["labels"] == self._params.label) & (out["scores"] >= self._params.threshold)
        boxes = out["boxes"][keep].cpu().numpy().astype(np.float64)
        return largest(boxes - 0.5, out["scores"][keep].cpu().numpy())  # theirs count from the image's corner
