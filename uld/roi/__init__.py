"""Object boxes: providers by name, and the chain that asks them in turn. A new one is a file and a line of `TABLE`."""

from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.progress import track

from uld.base import runtime
from uld.base.errors import DataError, ParamsError
from uld.base.params import CLOSED
from uld.base.shown import short
from uld.images import Pixels
from uld.images.decode import ahead, decode
from uld.roi.base import Box, Context, Provider

TABLE = {
    "full": "uld.roi.full:Full",
    "annotation": "uld.roi.annotation:Annotation",
    "boxes": "uld.roi.boxes:Boxes",
    "dlib": "uld.roi.dlib:Dlib",
    "torchvision": "uld.roi.torchvision:Torchvision",
    "transformers": "uld.roi.transformers:Transformers",
}

BATCH = 4  # photographs in memory at a time; large ones take 70 MB each

__all__ = ["TABLE", "Box", "Context", "Provider", "RoiParams", "detect", "kind", "locate"]


@dataclass(frozen=True, config=CLOSED)
class RoiParams:
    """The block `roi`."""

    providers: Annotated[tuple[str, ...], Field(min_length=1)]
    margin: Annotated[float, Field(ge=0, le=10)]
    crop: Annotated[int, Field(ge=8, le=4096)]
    # share of the crop's side: nearer to an edge of the photograph no landmark lies, where features see it mirrored
    border: Annotated[float, Field(ge=0, le=0.4)]
    max_missing: Annotated[float, Field(ge=0, le=1)]


def kind(name: str) -> type[Provider]:
    """The class of the provider `name`; its `Params` is the block `roi_providers.<name>`."""
    if name not in TABLE:
        raise ParamsError(f"params.yaml: roi.providers: '{name}' is no provider; there are {', '.join(TABLE)}.")
    module, cls = TABLE[name].split(":")
    found: type[Provider] = getattr(import_module(module), cls)
    return found


def detect(providers: list[Provider], images: list[Pixels], ids: list[str]) -> list[tuple[Box, str] | None]:
    """The box of each image from the first provider that finds one, with that provider's label; None if none does.

    Args:
        providers: in the order in which they are asked.
        images: (H, W, 3) uint8 RGB each.
        ids: of the images, in the same order.

    Raises:
        DataError: a box that lies wholly outside its image.
    """
    found: list[tuple[Box, str] | None] = [None] * len(images)
    for provider in providers:
        open_ = [i for i, box in enumerate(found) if box is None]
        if not open_:
            break
        for i, box in zip(open_, provider.detect([images[i] for i in open_], [ids[i] for i in open_]), strict=True):
            if box is not None:
                _check(box, images[i], ids[i], provider.label)
                found[i] = box, provider.label
    return found


def _check(box: Box, image: Pixels, name: str, label: str) -> None:
    height, width = image.shape[:2]
    if not (box.x1 < width - 0.5 and box.x2 > -0.5 and box.y1 < height - 0.5 and box.y2 > -0.5):
        raise DataError(
            f"image '{name}': the box ({box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g}) of provider {label} lies "
            f"outside its {width} x {height} pixels: mend it, or take the provider out of roi.providers."
        )


def locate(
    root: Path, index: pd.DataFrame, providers: list[Provider], max_missing: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Boxes of all usable images.

    Args:
        root: folder of the images.
        index: artifacts/data/index.csv.
        providers: in the order in which they are asked.
        max_missing: share of images without a box that is let pass.

    Returns:
        The tables boxes.csv (sorted by image) and missing.csv of docs/artifacts.md.

    Raises:
        DataError: no box for more than `max_missing` of the images, or for all of a split; a box of an unknown image.
    """
    _refuse_unknown(providers, set(index["image"]))
    usable = index[index["status"] == "ok"].sort_values("image", ignore_index=True)[["image", "split"]]
    labels = {provider.label: code for code, provider in enumerate(providers)}
    values = np.zeros((len(usable), 5))
    code = np.full(len(usable), -1)
    row = 0
    for images, ids in _batches(root, usable["image"].tolist()):
        for found in detect(providers, images, ids):
            if found is not None:
                values[row], code[row] = found[0], labels[found[1]]
            row += 1
    boxes = usable.assign(**dict(zip(Box._fields, values.T, strict=True)))
    boxes["provider"] = np.array(list(labels), dtype=object)[code]
    missing = usable[code < 0].assign(reason=f"no box from {', '.join(labels)}")
    _refuse_missing(usable, missing, max_missing)
    return boxes[code >= 0].reset_index(drop=True), missing.reset_index(drop=True)


def _refuse_unknown(providers: list[Provider], images: set[str]) -> None:
    """A misspelt id would leave its image to the next provider without a word."""
    for provider in providers:
        if unknown := sorted(provider.listed - images):
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise DataError(
                f"provider {provider.label} has a box of '{short(unknown[0])}'{more}, which is no file of the data "
                "set: correct the path (relative to the folder) or remove the line."
            )


def _batches(root: Path, ids: list[str]) -> Iterator[tuple[list[Pixels], list[str]]]:
    decoded = ahead(lambda name: decode(root / name), ids, min(runtime.threads(), BATCH))
    for start in track(range(0, len(ids), BATCH), "finding objects", console=Console(stderr=True)):
        yield list(islice(decoded, BATCH)), ids[start : start + BATCH]


def _refuse_missing(usable: pd.DataFrame, missing: pd.DataFrame, max_missing: float) -> None:
    remedy = "add `full` (the whole image) to the end of roi.providers, lower a threshold"
    if len(missing) > max_missing * len(usable):
        some: Any = ", ".join(missing["image"][:5])
        raise DataError(
            f"{len(missing)} of {len(usable)} images have no object box, more than the share {max_missing:g} allowed "
            f"(first: {some}): {remedy}, or raise roi.max_missing."
        )
    for split in usable["split"].unique():
        if (missing["split"] == split).sum() == (usable["split"] == split).sum():
            raise DataError(f"no image of split '{split}' has an object box: {remedy}.")
