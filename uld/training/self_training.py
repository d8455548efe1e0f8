"""A round of training on pseudo-labels: the detector fires there and descriptors agree there (D-ULD, section 3.2)."""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import heatmaps, sampling
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import refuse_collapse
from uld.sources.views import Ahead, Batch
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
    batches = Ahead(lambda step: draw_pairs(images, headed.grid, p, training.rng(step)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, cells = batches(number)
        maps = batch.through(headed)
        refuse_collapse(maps.looks, training.name)
        target = heatmaps.render(xy, headed.grid, p.sigma)
        detector = 2 * duld.detector_mse(maps.heat[:, 0], target, batch.inside)
        positive, negative = contrast(maps.looks, xy, cells, batch.inside, p)
        pairs = len(positive) + len(negative)
        descriptor = (positive.sum() + negative.sum()) / max(1, pairs)
        return detector + p.descriptor_weight * descriptor, {"detector": detector, "descriptor": descriptor}

    groups = headed.groups(p.lr, p.descriptor_lr)
    return headed, descend(headed, groups, p.steps, step, p.optimiser, training, training.name)


def draw_pairs(
    images: LabelledImages, grid: int, p: SelfTrainingParams, rng: np.random.Generator
) -> tuple[Batch, Tensor, Tensor]:
    """Draw P pairs of views: of two images, or of one; each is flipped or not.

    Returns:
        The batch of 2P items, first all first ones; labels (2P, K, 2) in cells, NaN where absent; cells (2P, n, 2).
    """
    first = rng.choice(images.images, p.pairs)
    second = np.where(rng.random(p.pairs) < p.other_image, rng.choice(images.images, p.pairs), first)
    batch, xy = images.draw(np.concatenate([first, second]), rng)
    cells = rng.integers(0, grid, (2 * p.pairs, p.negatives, 2)).astype(np.float32)
    return batch, xy, torch.from_numpy(cells).to(batch.inside.device)


def contrast(
    descriptors: Tensor, xy: Tensor, cells: Tensor, inside: Tensor, p: SelfTrainingParams
) -> tuple[Tensor, Tensor]:
    """Terms of the contrastive loss: same landmark in the two views of a pair, other places within a view.

    Args:
        descriptors: (2P, D, G, G) of unit length. xy: (2P, K, 2) in cells, NaN where absent. cells: (2P, n, 2) cells.
        inside: (2P, G, G) bool.

    Returns:
        positive (A,): squared distances. negative (B,): squared shortfalls from the margin, for pairs of places that
        are more than `min_distance` cells from each other.
    """
    known = within(xy, descriptors.shape[-1])
    xy = xy.masked_fill(~known[..., None], 0)
    here = F.normalize(sampling.sample(descriptors, xy), dim=2)
    there = sampling.sample(descriptors, cells)
    first, second = here.chunk(2)
    both = known[: len(first)] & known[len(first) :]
    positive = duld.attract(first[both], second[both])
    column, row = cells.long().unbind(2)
    valid = inside[torch.arange(len(cells), device=cells.device)[:, None], row, column]
    far = (torch.cdist(xy, xy) > p.min_distance) & known[:, :, None] & known[:, None]
    far_cells = (torch.cdist(xy, cells) > p.min_distance) & known[:, :, None] & valid[:, None]
    # chosen before they are compared: of many landmarks an image shows few
    negative = []
    for apart, others in ((far, here), (far_cells, there)):
        view, one, other = apart.nonzero(as_tuple=True)
        negative.append(duld.repel(here[view, one], others[view, other], p.margin))
    return positive, torch.cat(negative)


def within(xy: Tensor, grid: int) -> Tensor:
    """Which points (..., 2) in cells are there and lie in a view of `grid` cells a side: (...) bool."""
    return (xy.isfinite() & (xy > -0.5) & (xy < grid - 0.5)).all(-1)
