"""What a method is: it discovers K landmarks on training images and finds them in any image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.geometry.coords import Affine
from uld.models import Head
from uld.sources.views import Bank


class Source(Protocol):
    """Descriptors of images on a G x G grid, from a feature store or computed on the spot."""

    @property
    def grid(self) -> int:
        """G, cells a side."""
        ...

    @property
    def views(self) -> Affine:
        """(V, 2, 3), crop -> view; view 0 is the untouched crop."""
        ...

    @property
    def mirrored(self) -> NDArray[np.bool_]:
        """(V,)."""
        ...

    @property
    def detects(self) -> bool:
        """Whether the model has heat maps."""
        ...

    @property
    def poses(self) -> bool:
        """Whether the model has pose codes."""
        ...

    def describe(self, rows: NDArray[np.int64], view: int = 0) -> torch.Tensor:
        """(B, D, G, G) float32 descriptors of unit length, of view `view` of the bank."""
        ...

    def maps(self, rows: NDArray[np.int64], view: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Descriptors as above and heat maps (B, C, G, G) in [0, 1]."""
        ...

    def codes(self, heat: torch.Tensor) -> torch.Tensor:
        """Pose codes (B, C) float32 of heat maps as `maps` gives them."""
        ...

    def inside(self, rows: NDArray[np.int64], view: int = 0) -> torch.Tensor:
        """(B, G, G) bool: cells that show the photograph and not padding."""
        ...

    def to_image(self, rows: NDArray[np.int64], xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Points (B, P, 2) from cells of view `view` to image pixels."""
        ...

    def to_cells(self, rows: NDArray[np.int64], xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Points (B, P, 2) from image pixels to cells of view `view`."""
        ...


@dataclass(frozen=True)
class Discovery:
    """Result of `Method.discover`: the landmarks and label-free figures of their quality (docs/artifacts.md)."""

    landmarks: Landmarks
    quality: dict[str, float | int]


@dataclass(frozen=True)
class Marked:
    """Result of `Method.label`: pseudo-labels and figures of their health (docs/artifacts.md)."""

    labels: Labels
    health: dict[str, float]


@dataclass(frozen=True)
class Training:
    """What a round is trained on: labels, the view bank, a generator a step, its resume state, a name for messages."""

    labels: Labels
    bank: Bank
    rng: Callable[[int], np.random.Generator]
    state: Path
    name: str


@dataclass(frozen=True)
class Found:
    """Landmarks of B images in grid cells: xy (B, K, 2), NaN where missing, score (B, K); dense_*: always filled.

    Of two-stage clustering also the pose (B,) and its margin (B,), see `artifacts.Predictions`.
    """

    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]
    pose: NDArray[np.int64] | None = None
    pose_margin: NDArray[np.float32] | None = None


class Method(ABC):
    """One way from descriptors to landmarks. Final classes only: a variant is another file."""

    Params: ClassVar[type[Any]]  # the method's block of `steps`

    @abstractmethod
    def __init__(self, params: Any) -> None: ...

    @abstractmethod
    def discover(
        self,
        source: Source,
        rows: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Discovery:
        """Find K = `count` landmarks on the training images `rows`; `previous`: labels of the model's last round."""

    def label(
        self,
        source: Source,
        landmarks: Landmarks,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Marked:
        """The pseudo-labels of a round in the images `rows`."""
        raise ULDError("this step is no round of self-training: choose another one in rounds.")

    def train(self, head: Head, training: Training) -> tuple[Head, pd.DataFrame]:
        """The model after a round on pseudo-labels, and a line a training step."""
        raise ULDError(f"{training.name}: its step trains nothing: choose another one in rounds.")

    @abstractmethod
    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Find the discovered landmarks in a batch of images."""

    def match(
        self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0
    ) -> NDArray[np.float32]:
        """`Found.dense_xy` (B, K, 2) alone, for methods that need no detector for it."""
        return self.find(source, landmarks, rows, view).dense_xy
