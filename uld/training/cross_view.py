"""A round of training on pseudo-labels whose descriptors are compared across views (Mallis, thesis, 2023, chapter 5).

A landmark is alike in the two views of a pair, and unlike every other landmark of the other view. What shows no
landmark takes no part.
"""

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
from uld.geometry import sampling
from uld.losses import mallis
from uld.methods.base import Training
from uld.models.base import Model
from uld.sources.views import Batch
from uld.training.descriptor_contrast import within
from uld.training.labelled import LabelledImages
from uld.training.self_training import Drawn, PairParams, pair_up, train_on_pairs


@dataclass(frozen=True, config=CLOSED)
class CrossViewParams(PairParams):
    """Training of a round."""

    margin: Annotated[float, Field(gt=0)]  # of the contrastive loss
    negatives: Annotated[int, Field(ge=0)]  # pairs of two landmarks, one in each view, that are compared, at most
    least: Annotated[int, Field(ge=1)]  # labels of an image that is trained on; 9 in the author's code


def train(model: Model, training: Training, p: CrossViewParams) -> tuple[Model, pd.DataFrame]:
    """Detector: squared error against Gaussians. Descriptors: contrastive loss across the views of a pair.

    Returns:
        The model and a line a training step.

    Raises:
        ULDError: as in `self_training.train`, or no image has enough labels.
    """

    def draw(images: LabelledImages, rng: np.random.Generator) -> Drawn:
        batch, xy = pair_up(images, p, rng)
        return batch, xy, across(_shared(xy, batch), p.negatives, rng)

    def contrast(looks: Tensor, batch: Batch, xy: Tensor, negative: Tensor) -> Tensor:
        # what is absent is read at cell 0 and takes no part
        first, second = F.normalize(sampling.sample(looks, xy.nan_to_num()), dim=2).chunk(2)
        return mallis.cross_contrast(first, second, _shared(xy, batch), negative, p.margin)

    return train_on_pairs(model, training, p, crowded(training.labels, p.least, training.name), draw, contrast)


def crowded(labels: Labels, least: int, name: str) -> NDArray[np.int64]:
    """Images, rising, that have at least so many labels.

    Raises:
        ULDError: there are labels, but in no image enough.
    """
    rows, count = np.unique(labels.image, return_counts=True)
    if len(rows) and not (count >= least).any():
        raise ULDError(
            f"{name}: no image has {least} labels, the most are {count.max()}: lower methods.*.train.least, or detect "
            "more points."
        )
    return rows[count >= least]


def across(both: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Pairs of two landmarks, one in each view of a pair.

    Args:
        both: (P, K) bool, landmarks that both views of a pair have. most: pairs of landmarks a pair of views, at most;
            of more, so many are drawn.

    Returns:
        (N, 3) int64, rising: pair, landmark in the first view, another one in the second.
    """
    known = both.cpu().numpy()
    other = ~np.eye(known.shape[1], dtype=np.bool_)
    found = np.stack(np.nonzero(known[:, :, None] & known[:, None] & other), axis=1)
    pair = found[:, 0]
    order = np.lexsort((rng.random(len(pair)), pair))
    drawn = order[np.arange(len(pair)) - np.searchsorted(pair, pair) < most]
    return torch.from_numpy(found[np.sort(drawn)]).to(both.device)


def _shared(xy: Tensor, batch: Batch) -> Tensor:
    """(P, K) bool: landmarks (2P, K, 2) in cells that lie in both views of a pair."""
    first, second = within(xy, batch.inside.shape[-1]).chunk(2)
    return first & second
