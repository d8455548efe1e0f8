"""A round of training on pseudo-labels: the detector fires there and descriptors agree there (D-ULD, section 3.2)."""

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


@dataclass(frozen=True, config=CLOSED)
class SelfTrainingParams:
    """Training of a round."""

    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # of views, a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]  # of the descriptor head
    optimiser: OptimiserParams
    other_image: Annotated[float, Field(ge=0, le=1)]  # share of pairs of two images; the rest are two views of one
    sigma: Annotated[float, Field(ge=0)]  # cells, of the Gaussians that the detector learns; 0: one cell
    margin: Annotated[float, Field(gt=0)]  # of the contrastive loss
    negatives: Annotated[int, Field(ge=0)]  # random cells a view
    min_distance: Annotated[float, Field(ge=0)]  # cells between a point and its negatives, at least
    descriptor_weight: Annotated[float, Field(ge=0)]  # of the contrastive loss against the detector's


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
    headed = trainable(model, training)
    images = LabelledImages(training.labels, training.views, model.maps_read(), rows)
    batches = Ahead(lambda step: draw_pairs(images, p, training.rng(step)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, cells = batches(number)
        maps = batch.through(headed)
        refuse_collapse(maps.looks, training.name)
        target = heatmaps.render(xy, headed.grid, p.sigma)
        detector = 2 * duld.detector_mse(maps.heat[:, 0], target, batch.inside)
        descriptor = contrast(maps.looks, xy, cells, batch.inside, p.margin, p.min_distance)
        return detector + p.descriptor_weight * descriptor, {"detector": detector, "descriptor": descriptor}

    groups = headed.groups(p.lr, p.descriptor_lr)
    return headed, descend(headed, groups, p.steps, step, p.optimiser, training, training.name)


def draw_pairs(images: LabelledImages, p: SelfTrainingParams, rng: np.random.Generator) -> tuple[Batch, Tensor, Tensor]:
    """Draw P pairs of views: of two images, or of one; each is flipped or not.

    Returns:
        The batch of 2P items, first all first ones; labels (2P, K, 2) in cells, NaN where absent; cells (2P, n, 2).
    """
    first = rng.choice(images.images, p.pairs)
    second = np.where(rng.random(p.pairs) < p.other_image, rng.choice(images.images, p.pairs), first)
    batch, xy = images.draw(np.concatenate([first, second]), rng)
    return batch, xy, draw_cells(batch, p.negatives, rng)
