"""Batches of labelled images: what a round's model is shown, and where its landmarks are there."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.landmarks import label
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import Headed
from uld.sources.views import Ahead, Batch, TrainingViews


class LabelledImages:
    """Labels of a round by image and flip.

    `images`: those that are drawn, as indices of the views' rows; `flips`: which flips have labels.
    """

    def __init__(
        self, labels: Labels, views: TrainingViews, names: list[str], rows: NDArray[np.int64] | None = None
    ) -> None:
        """Draw from the images `rows`, None: from all; names: the feature maps that the model reads."""
        self._views, self._names = views, names
        self.images = np.searchsorted(views.rows, views.rows if rows is None else rows)
        self.flips = sorted(map(bool, np.unique(labels.flipped)))
        self._xy = {flip: label.table(labels, views.rows, flip, labels.count) for flip in self.flips}

    def draw(
        self, image: NDArray[np.int64], rng: np.random.Generator, flipped: NDArray[np.bool_] | None = None
    ) -> tuple[Batch, Tensor]:
        """Images (B,), as indices of the views' rows, each in a random view that is `flipped` (B,) or not.

        Args:
            flipped: None: a random flip that was labelled.

        Returns:
            The batch, and its labels (B, K, 2) in cells, NaN where absent.
        """
        flipped = rng.choice(self.flips, len(image)) if flipped is None else flipped
        batch = self._views.draw(self._views.rows[image], flipped, rng, self._names)
        xy = np.stack([self._xy[bool(flip)][i] for flip, i in zip(flipped, image, strict=True)])
        return batch, self._views.to_cells(batch, xy)

    def batches(self, views: int, rng: Callable[[int], np.random.Generator], steps: int) -> Ahead[tuple[Batch, Tensor]]:
        """For each step as many random images, each in a random view, and their labels; `rng` of a step draws both."""

        def draw(number: int) -> tuple[Batch, Tensor]:
            own = rng(number)
            return self.draw(own.choice(self.images, views), own)

        return Ahead(draw, steps)


def labelled(training: Training, model: Model) -> LabelledImages:
    """The images that have labels."""
    rows = np.unique(training.labels.image)
    return LabelledImages(training.labels, training.views, model.maps_read(), rows)


def trainable(model: Model, training: Training, *, several: bool = False) -> Headed:
    """The model that a round starts from.

    Args:
        several: whether it may have several heat maps.

    Raises:
        ULDError: it cannot be trained, has several heat maps, or there are no labels.
    """
    name = training.name
    if not isinstance(model, Headed):
        raise ULDError(f"{name}: a round needs a model to train: start it from a start of model heads or encoder.")
    if model.channels != 1 and not several:
        raise ULDError(f"{name}: its start has {model.channels} heat maps, not one: start it from an earlier round.")
    if not len(training.labels.image):
        raise ULDError(f"{name}: its labels are empty: lower methods.*.cluster.detect.threshold or raise min_points.")
    return model
