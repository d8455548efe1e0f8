"""A round of training on pseudo-labels: the detector fires there and descriptors agree there (D-ULD, section 3.2)."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import refuse_collapse
from uld.sources.views import Ahead, Batch
from uld.training.descriptor_contrast import contrast, draw_cells
from uld.training.labelled import LabelledImages, trainable
from uld.training.optimiser import OptimiserParams, descend

# the loss of a round's descriptors: of descriptors, the batch, its labels, and what was drawn beside it for the loss
Compare = Callable[[Tensor, Batch, Tensor, Tensor], Tensor]
Drawn = tuple[Batch, Tensor, Tensor]


@dataclass(frozen=True, config=CLOSED)
class PairParams:
    """Training of a round on pairs of views, whatever the loss of descriptors."""

    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # of views, a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]  # of the descriptor head
    optimiser: OptimiserParams
    other_image: Annotated[float, Field(ge=0, le=1)]  # share of pairs of two images; the rest are two views of one
    sigma: Annotated[float, Field(ge=0)]  # cells, of the Gaussians that the detector learns; 0: one cell
    descriptor_weight: Annotated[float, Field(ge=0)]  # of the contrastive loss against the detector's


@dataclass(frozen=True, config=CLOSED)
class SelfTrainingParams(PairParams):
    """Training of a round."""

    margin: Annotated[float, Field(gt=0)]  # of the contrastive loss
    negatives: Annotated[int, Field(ge=0)]  # random cells a view
    min_distance: Annotated[float, Field(ge=0)]  # cells between a point and its negatives, at least


def train(
    model: Model, training: Training, p: SelfTrainingParams, rows: NDArray[np.int64] | None = None
) -> tuple[Model, pd.DataFrame]:
    """Detector: squared error against Gaussians. Descriptors: contrastive loss.

    Args:
        rows: images to train on; None: all, also those without a label, where the detector learns to be silent.

    Returns:
        The model and a line a training step.

    Raises:
        ULDError: the model cannot be trained or has several heat maps, there are no labels, or descriptors collapse.
    """

    def draw(images: LabelledImages, rng: np.random.Generator) -> Drawn:
        return draw_pairs(images, p, rng)

    def within_views(looks: Tensor, batch: Batch, xy: Tensor, cells: Tensor) -> Tensor:
        return contrast(looks, xy, cells, batch.inside, p.margin, p.min_distance)

    return train_on_pairs(model, training, p, rows, draw, within_views)


def train_on_pairs(
    model: Model,
    training: Training,
    p: PairParams,
    rows: NDArray[np.int64] | None,
    draw: Callable[[LabelledImages, np.random.Generator], Drawn],
    compare: Compare,
) -> tuple[Model, pd.DataFrame]:
    """`train` with a loss of descriptors of its own.

    Args:
        draw: what a step sees: 2P views, first all first ones, their labels (2P, K, 2) in cells, NaN where absent, and
            what the loss needs beside them. compare: that loss.
    """
    headed = trainable(model, training)
    images = LabelledImages(training.labels, training.views, model.maps_read(), rows)
    batches = Ahead(lambda step: draw(images, training.rng(step)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, others = batches(number)
        maps = batch.through(headed)
        refuse_collapse(maps.looks, training.name)
        target = heatmaps.render(xy, headed.grid, p.sigma)
        detector = 2 * duld.detector_mse(maps.heat[:, 0], target, batch.inside)
        descriptor = compare(maps.looks, batch, xy, others)
        return detector + p.descriptor_weight * descriptor, {"detector": detector, "descriptor": descriptor}

    groups = headed.groups(p.lr, p.descriptor_lr)
    return headed, descend(headed, groups, p.steps, step, p.optimiser, training, training.name)


def draw_pairs(images: LabelledImages, p: SelfTrainingParams, rng: np.random.Generator) -> Drawn:
    """Draw P pairs of views as `pair_up` does, and n random cells of each.

    Returns:
        The batch of 2P items, first all first ones; labels (2P, K, 2) in cells, NaN where absent; cells (2P, n, 2).
    """
    batch, xy = pair_up(images, p, rng)
    return batch, xy, draw_cells(batch, p.negatives, rng)


def pair_up(images: LabelledImages, p: PairParams, rng: np.random.Generator) -> tuple[Batch, Tensor]:
    """Draw P pairs of views: of two images, or of one; each is flipped or not. The batch and its labels."""
    first = rng.choice(images.images, p.pairs)
    second = np.where(rng.random(p.pairs) < p.other_image, rng.choice(images.images, p.pairs), first)
    return images.draw(np.concatenate([first, second]), rng)
