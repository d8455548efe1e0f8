"""What the ROI stage asks of a provider of object boxes."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uld.images import Pixels


class Box(NamedTuple):
    """Object box in image pixels, as *edges*: over pixels a..b it spans a - 0.5 to b + 0.5; higher scores are surer."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float

    @classmethod
    def of(cls, edges: NDArray[np.floating], score: float) -> "Box":
        """From (4,) x1, y1, x2, y2."""
        x1, y1, x2, y2 = map(float, edges)
        return cls(x1, y1, x2, y2, score)


@dataclass(frozen=True)
class Context:
    """Where a provider may look: `source`, the data set's folder, and `annotations`, the file of the stage `data`."""

    source: Path
    annotations: Path


class Provider(ABC):
    """Finds the object in images.

    `Params` is the block `roi_providers.<name>` of params.yaml; `label` goes into boxes.csv and names the weights where
    there are any; `general` says whether it works on photographs outside the data set too; `opens` are those of its
    params that name a file or folder that it reads; `listed` are ids of images, where it has a list
    of their boxes.
    """

    Params: ClassVar[type]
    general: ClassVar[bool] = True
    opens: ClassVar[tuple[str, ...]] = ()
    label: str
    listed: frozenset[str] = frozenset()

    @abstractmethod
    def __init__(self, params: Any, context: Context) -> None:
        """`params` is an instance of `Params`."""

    @abstractmethod
    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """The object's box in each image (H, W, 3) uint8 RGB, or None; the result does not depend on the batch."""


def largest(boxes: NDArray[np.floating], scores: NDArray[np.floating]) -> Box | None:
    """Of boxes (n, 4) with positive scores (n,), the one of largest score x area: the photograph's subject."""
    sides = boxes[:, 2:] - boxes[:, :2]
    merit = scores * sides.prod(axis=1) * (sides > 0).all(axis=1)
    if not merit.any():
        return None
    best = int(merit.argmax())
    return Box.of(boxes[best], float(scores[best]))


def fingerprint(paths: list[Path]) -> str:
    """First 8 hex digits of the sha256 over the files' bytes, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]
