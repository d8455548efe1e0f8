"""What a method is: it discovers K landmarks on training images and finds them in any image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.found import Found
from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.errors import ULDError
from uld.geometry.frames import Rows
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import TrainingViews, View


@dataclass(frozen=True)
class Task:
    """What landmarks are discovered on.

    source: what the model says; rows (n,): training images; count: K; rng: draws all that is drawn; previous: labels of
    the model's last round, None of a model that has been through none; memory: what discovery leaves for the labels.
    """

    source: Source
    rows: Rows
    count: int
    rng: np.random.Generator
    previous: Labels | None = None
    memory: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Discovery:
    """Result of `Method.discover`: the landmarks and label-free figures of their quality (docs/artifacts.md)."""

    landmarks: Landmarks
    quality: dict[str, float | int]


@dataclass(frozen=True)
class Labelled:
    """Result of `Method.label`: pseudo-labels and figures of their health (docs/artifacts.md)."""

    labels: Labels
    health: dict[str, float]


@dataclass(frozen=True)
class Training:
    """What a round is trained on: labels, views, a generator a step, its resume state, and its name for messages.

    moments: what the optimiser of the start remembers, if it was kept; the training puts its own in their place.
    """

    labels: Labels
    views: TrainingViews
    rng: Callable[[int], np.random.Generator]
    state: Path
    name: str
    moments: dict[str, Tensor] = field(default_factory=dict)


class Method(ABC):
    """One way from what a model says to landmarks. Final classes only: a variant is another file or a parameter.

    `Cluster` is the type of the block methods.<name>.cluster, which says how landmarks are discovered, labelled and
    found; `Train` that of methods.<name>.train, of methods whose rounds train a model. `fewest`: the least K.
    """

    Cluster: ClassVar[type[Any]]
    Train: ClassVar[Any] = None
    fewest: ClassVar[int] = 1

    def __init__(self, params: Any) -> None:
        """`params` is an instance of `Cluster`."""
        self.params = params

    @abstractmethod
    def discover(self, task: Task) -> Discovery:
        """Find K landmarks on training images."""

    def label(self, task: Task, landmarks: Landmarks) -> Labelled:
        """The pseudo-labels of a round: where the discovered landmarks are in the training images."""
        raise ULDError("this method has no rounds of self-training: choose another one in rounds.")

    @staticmethod
    def train(model: Model, training: Training, params: Any) -> tuple[Model, pd.DataFrame]:
        """The model after a round on pseudo-labels, and a line a training step; `params` is an instance of `Train`."""
        raise ULDError(f"{training.name}: its method trains nothing: choose another one in rounds.")

    @abstractmethod
    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """Find the discovered landmarks in a batch of images in a view, in cells."""

    def match(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> NDArray[np.float32]:
        """`Found.dense_xy` (B, K, 2) alone, for methods that need no detector for it."""
        return self.find(source, landmarks, rows, view).dense_xy
