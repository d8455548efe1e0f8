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

from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords, heatmaps
from uld.landmarks import label
from uld.losses import duld
from uld.methods.base import Training
from uld.models import Head, refuse_collapse
from uld.models.heads import LearnedHead
from uld.sources.views import Ahead, Bank, Batch
from uld.training.fit import fit


@dataclass(frozen=True, config=CLOSED)
class TrainParams:
    """Training of a round."""

    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]
    other: Annotated[float, Field(ge=0, le=1)]  # share of pairs of two images; the rest are two views of one
    sigma: Annotated[float, Field(gt=0)]  # cells, of the Gaussians that the detector learns
    margin: Annotated[float, Field(gt=0)]  # of the contrastive loss
    negatives: Annotated[int, Field(ge=0)]  # random cells a view
    apart: Annotated[float, Field(ge=0)]  # cells between a point and its negatives, at least
    descriptor_weight: Annotated[float, Field(ge=0)]


def train(
    head: Head, training: Training, p: TrainParams, rows: NDArray[np.int64] | None = None
) -> tuple[Head, pd.DataFrame]:
    """Detector: squared error against Gaussians. Descriptors: contrastive loss.

    Args:
        rows: images to train on; None: all, also those without a label, where the detector learns to be silent.

    Returns:
        The model and a line a training step.

    Raises:
        ULDError: the model cannot be trained or has several heat maps, there are no labels, or descriptors collapse.
    """
    head, bank = trainable(head, training.name), training.bank
    taught = Taught(training.labels, bank, landmarks(training), rows)
    optimiser = torch.optim.Adam(head.groups(p.lr, p.descriptor_lr))
    batches = Ahead(lambda step: draw_pairs(bank, taught, p, training.rng(step)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, cells = batches(number)
        descriptors, logits = batch.through(head.maps)
        refuse_collapse(descriptors, training.name)
        target = heatmaps.render(xy, bank.grid, p.sigma)
        detector = 2 * duld.detector_mse(logits[:, 0].sigmoid(), target, batch.inside)
        positive, negative = contrast(descriptors, xy, cells, batch.inside, p)
        pairs = len(positive) + len(negative)
        descriptor = (positive.sum() + negative.sum()) / max(1, pairs)
        return detector + p.descriptor_weight * descriptor, {"detector": detector, "descriptor": descriptor}

    return head, fit(head, [optimiser], p.steps, step, training.state, training.name)


def trainable(head: Head, name: str) -> LearnedHead:
    """The model that the round `name` starts from.

    Raises:
        ULDError: it cannot be trained, or has several heat maps.
    """
    if not isinstance(head, LearnedHead):
        raise ULDError(f"{name}: a round needs a model to train: start it from a start with head: learned.")
    if head.channels != 1:
        raise ULDError(f"{name}: its start has {head.channels} heat maps, not one: start it from an earlier round.")
    return head


def landmarks(training: Training) -> int:
    """How many landmarks the labels of a round tell apart.

    Raises:
        ULDError: there are no labels.
    """
    count = int(training.labels.label.max(initial=-1)) + 1
    if not count:
        raise ULDError(f"{training.name}: its labels are empty: lower steps.*.detect.threshold or raise least.")
    return count


class Taught:
    """Labels of a round by image and hand: `xy` (n, K, 2) image pixels for every hand that was labelled.

    `images`: those that are drawn, as indices of the bank's rows.
    """

    def __init__(self, labels: Labels, bank: Bank, count: int, rows: NDArray[np.int64] | None = None) -> None:
        """Draw from the images `rows`, None: from all."""
        self._bank = bank
        self.images = np.searchsorted(bank.rows, bank.rows if rows is None else rows)
        views = np.unique(labels.view)
        self.xy = {bool(bank.mirrored[view]): label.table(labels, bank.rows, view, count) for view in views}

    def read(
        self, image: NDArray[np.int64], rng: np.random.Generator, hand: NDArray[np.bool_] | None = None
    ) -> tuple[Batch, Tensor]:
        """Images (B,), as indices of the bank's rows, each in a random view of its hand, mirrored (B,) or not.

        Args:
            hand: None: a random one that was labelled.

        Returns:
            The batch, and its labels (B, K, 2) in cells, NaN where absent.
        """
        hand = rng.choice(sorted(self.xy), len(image)) if hand is None else hand
        views = np.array([rng.choice(self._bank.hands[int(one)]) for one in hand])
        batch = self._bank.read(self._bank.rows[image], views)
        xy = np.stack([self.xy[bool(h)][i] for h, i in zip(hand, image, strict=True)])
        return batch, self._bank.to_cells(batch, xy)


def draw_pairs(bank: Bank, taught: Taught, p: TrainParams, rng: np.random.Generator) -> tuple[Batch, Tensor, Tensor]:
    """Draw P pairs of views: of two images, or of one; each is mirrored or not.

    Returns:
        The batch of 2P items, first all first ones; labels (2P, K, 2) in cells, NaN where absent; cells (2P, n, 2).
    """
    first = rng.choice(taught.images, p.pairs)
    second = np.where(rng.random(p.pairs) < p.other, rng.choice(taught.images, p.pairs), first)
    batch, xy = taught.read(np.concatenate([first, second]), rng)
    cells = rng.integers(0, bank.grid, (2 * p.pairs, p.negatives, 2)).astype(np.float32)
    return batch, xy, torch.from_numpy(cells).to(batch.inside.device)


def contrast(descriptors: Tensor, xy: Tensor, cells: Tensor, inside: Tensor, p: TrainParams) -> tuple[Tensor, Tensor]:
    """Terms of the contrastive loss: same landmark in the two views of a pair, other places within a view.

    Args:
        descriptors: (2P, D, G, G) of unit length. xy: (2P, K, 2) in cells, NaN where absent. cells: (2P, n, 2) cells.
        inside: (2P, G, G) bool.

    Returns:
        positive (A,): squared distances. negative (B,): squared shortfalls from the margin, for pairs of places that
        are more than `apart` cells from each other.
    """
    known = within(xy, descriptors.shape[-1])
    xy = xy.masked_fill(~known[..., None], 0)
    here = F.normalize(coords.sample(descriptors, xy), dim=2)
    there = coords.sample(descriptors, cells)
    first, second = here.chunk(2)
    both = known[: len(first)] & known[len(first) :]
    positive = duld.attract(first[both], second[both])
    column, row = cells.long().unbind(2)
    valid = inside[torch.arange(len(cells), device=cells.device)[:, None], row, column]
    far = (torch.cdist(xy, xy) > p.apart) & known[:, :, None] & known[:, None]
    far_cells = (torch.cdist(xy, cells) > p.apart) & known[:, :, None] & valid[:, None]
    # chosen before they are compared: of many landmarks an image shows few
    negative = []
    for apart, others in ((far, here), (far_cells, there)):
        view, one, other = apart.nonzero(as_tuple=True)
        negative.append(duld.repel(here[view, one], others[view, other], p.margin))
    return positive, torch.cat(negative)


def within(xy: Tensor, grid: int) -> Tensor:
    """Which points (..., 2) in cells are there and lie in a view of `grid` cells a side: (...) bool."""
    return (xy.isfinite() & (xy > -0.5) & (xy < grid - 0.5)).all(-1)
