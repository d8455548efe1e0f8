"""`transformers`: any object detector (RT-DETR, DETR, YOLOS...) saved in a local folder by `save_pretrained`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base import runtime
from uld.base.errors import DataError, NotInstalled, ParamsError
from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider, fingerprint, largest

CLOSED_TO_CODE: Any = {"local_files_only": True, "trust_remote_code": False}  # a folder's own code is never run


@dataclass(frozen=True, config=CLOSED)
class TransformersParams:
    """`folder`: of the model; `label`: name of the class to look for; `threshold`: lowest score."""

    folder: str
    label: str
    threshold: Annotated[float, Field(ge=0, le=1)]


class Transformers(Provider):
    """The box of largest score x area among those of the class."""

    Params = TransformersParams
    opens = ("folder",)

    def __init__(self, params: TransformersParams, context: Context) -> None:
        """Load model and image processor; no hub is asked.

        Raises:
            DataError: no such folder, or no detector in it.
            ParamsError: the model knows no class of that name.
            NotInstalled: no transformers.
        """
        folder = Path(params.folder)
        if not (folder / "config.json").is_file():
            raise DataError(
                f"{folder} holds no config.json: save a detector there with save_pretrained, or mend "
                "roi_providers.transformers.folder."
            )
        try:
            library = import_module("transformers")
        except ImportError as error:
            raise NotInstalled("roi.providers names transformers: `pip install transformers`.") from error
        try:
            self._processor = library.AutoImageProcessor.from_pretrained(folder, **CLOSED_TO_CODE)
            network = library.AutoModelForObjectDetection.from_pretrained(
                folder, **CLOSED_TO_CODE, use_safetensors=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise DataError(f"{folder} holds no object detector that loads: {error}") from error
        names = {name: number for number, name in network.config.id2label.items()}
        if params.label not in names:
            raise ParamsError(
                f"roi_providers.transformers.label: {folder} knows no class '{params.label}'; "
                f"there are {', '.join(names)}."
            )
        self._device = runtime.device()
        self._network = network.eval().to(self._device)
        self._class, self._threshold = names[params.label], params.threshold
        self.label = f"transformers:{fingerprint(sorted(p for p in folder.iterdir() if p.is_file()))}"

    @torch.inference_mode()
    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`; one image a pass, because padding to a batch's largest image changes the result."""
        return [self._object(image) for image in images]

    def _object(self, image: Pixels) -> Box | None:
        encoded = self._processor(images=[image], input_data_format="channels_last", return_tensors="pt")
        (out,) = self._processor.post_process_object_detection(
            self._network(**encoded.to(self._device)), threshold=self._threshold, target_sizes=[image.shape[:2]]
        )
        keep = out["labels"] == self._class
        boxes = out["boxes"][keep].cpu().numpy().astype(np.float64)
        return largest(boxes - 0.5, out["scores"][keep].cpu().numpy())  # theirs count from the image's corner
