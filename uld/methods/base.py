"""What a method is: it discovers K landmarks on training images and finds them in any image."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from uld.artifacts import Labels, Landmarks
from uld.models.frozen import FrozenHead


class Source(Protocol):
    """Descriptors of images on a G x G grid, from a feature store or computed on the spot."""

    @property
    def grid(self) -> int:
        """G, cells a side."""
        ...

    def describe(self, rows: NDArray[np.int64], view: int = 0) -> torch.Tensor:
        """(B, D, G, G) float32 descriptors of unit length, of view `view` of the bank."""
        ...

    def inside(self, rows: NDArray[np.int64], view: int = 0) -> torch.Tensor:
        """(B, G, G) bool: cells that show the photograph and not padding."""
        ...

    def to_image(self, rows: NDArray[np.int64], xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Points (B, P, 2) from cells of view `view` to image pixels."""
        ...


@dataclass(frozen=True)
class Discovery:
    """Result of `Method.discover`: the landmarks and label-free figures of their quality (docs/artifacts.md)."""

    landmarks: Landmarks
    quality: dict[str, float | int]


@dataclass(frozen=True)
class Found:
    """Landmarks of B images in grid cells: xy (B, K, 2), NaN where missing, score (B, K); dense_*: always filled."""

    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]


class Method(ABC):
    """One way from descriptors to landmarks. Final classes only: a variant is another file."""

    Params: ClassVar[type[Any]]  # the method's block of `steps`

    @abstractmethod
    def __init__(self, params: Any) -> None: ...

    @abstractmethod
    def discover(self, source: Source, rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> Discovery:
        """Find K = `count` landmarks on the training images `rows`."""

    def train(self, head: FrozenHead, labels: Labels, rng: np.random.Generator) -> FrozenHead:
        """The head after a round on pseudo-labels. A method that has nothing to train hands it on as it is."""
        return head

    @abstractmethod
    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Find the discovered landmarks in a batch of images."""
