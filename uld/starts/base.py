"""What a start is: it makes a model on the training images, before any round."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from uld.images.crops import Crops
from uld.models.base import Model
from uld.sources.views import TrainingViews


@dataclass(frozen=True)
class Site:
    """What a start works with.

    views: of the training images, on what the model reads; crops: of all images; seed; state: file of the resume state;
    name: of the start; moments: where its training puts what its optimiser remembers, if that is kept.
    """

    views: TrainingViews
    crops: Crops
    seed: int
    state: Path
    name: str
    moments: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A model and, where it was trained, a line a training step."""

    model: Model
    history: pd.DataFrame | None


class Start(ABC):
    """One way to a first model. `Params` is the line of `starts`."""

    Params: ClassVar[type[Any]]  # with a field `reads`: what the model reads, features/<line of `stores`> or roi/crops

    def __init__(self, params: Any) -> None:
        """`params` is an instance of `Params`."""
        self.params = params

    @property
    @abstractmethod
    def grid(self) -> int:
        """G."""

    @property
    def views(self) -> dict[str, Any] | None:
        """How training warps and lights the crops that it draws anew, as a JSON tree; None: its views are stored."""
        return None

    @abstractmethod
    def make(self, site: Site) -> Made:
        """Make the model."""
