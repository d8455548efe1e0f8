"""Heat maps that fire at one place become one landmark (Mallis, thesis, 2023, section 5.2.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uld.artifacts.labels import Labels
from uld.base import progress
from uld.base.errors import ULDError
from uld.geometry.frames import Rows
from uld.landmarks import match
from uld.landmarks.channels import tops
from uld.sources.source import Source
from uld.sources.views import View

# which heat map of its start the landmark of a label goes on with, among the label's own arrays; `NEW`: it gets one.
# Labels of the second stage have it, and no others.
CHANNEL, NEW = "channel", -1


@dataclass(frozen=True)
class Overlaps:
    """How often heat maps fire together, over n images.

    both (C, C) int64: images where two are confident and near each other; sure (C,) int64: images where one is
    confident.
    """

    both: NDArray[np.int64]
    sure: NDArray[np.int64]


def overlaps(source: Source, rows: Rows, view: View, confident: float, near: float) -> Overlaps:
    """How often the heat maps of a model fire together in the images `rows` (n,).

    Args:
        confident: heat above which a heat map is confident. near: cells; two whose highest cells are closer are near
            each other.
    """
    count = source.model.channels
    both, sure = torch.zeros(count, count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    for batch in progress.batches("overlaps", rows):
        at, height = tops(source.maps(batch, view).heat, source.inside(batch, view), count, refine=False)
        together, alone = fire_together(at, height, confident, near)
        both, sure = both + together.cpu(), sure + alone.cpu()
    return Overlaps(both.numpy(), sure.numpy())


def fire_together(at: Tensor, height: Tensor, confident: float, near: float) -> tuple[Tensor, Tensor]:
    """`Overlaps` of a batch: of the highest cells (B, C, 2) and their heat (B, C)."""
    sure = height > confident
    close = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist") < near
    return (close & sure[:, :, None] & sure[:, None]).sum(0), sure.sum(0)


def merged(fired: Overlaps, population: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Which heat map (C,) each one goes on as: itself, if it is kept.

    The most populous comes first. Each one goes on as the first of those kept so far with which it fires together in
    more than `share` of the images where the one of the two that is less often confident is so; if there is none, it is
    kept.

    Args:
        population: (C,) labels of each; of equal ones the earlier is first.
    """
    least = np.minimum(fired.sure[:, None], fired.sure)
    same = fired.both > share * least
    into, kept = np.arange(len(least)), np.empty(0, dtype=np.int64)
    for one in np.argsort(-population, kind="stable"):
        alike = kept[same[one, kept]]
        if len(alike):
            into[one] = alike[0]
        else:
            kept = np.append(kept, one)
    return into


def relabelled(labels: Labels, into: NDArray[np.int64]) -> Labels:
    """Labels of the landmarks that are kept, numbered anew in their order; which heat map each was, is told beside.

    Where an image has labels of several that become one, that of the most populous stays.

    Args:
        labels: of C landmarks. into: (C,) which one each goes on as; what goes on as itself is kept.
    """
    kept = np.unique(into)
    label = np.searchsorted(kept, into[labels.label])
    rank = np.empty(labels.count)
    rank[np.argsort(-populations(labels), kind="stable")] = np.arange(labels.count)
    image = labels.flipped * (labels.image.max(initial=-1) + 1) + labels.image
    best = match.exemplars(image, label, rank[labels.label])
    columns = ("image", "flipped", "xy", "score", "detected")
    some = {name: getattr(labels, name)[best] for name in columns}
    return Labels(**some, label=label[best], count=len(kept), own={CHANNEL: kept[label[best]]})


def populous(labels: Labels, least: int) -> Labels:
    """Labels of the landmarks that have at least so many, and at least one, numbered anew: each gets a heat map.

    Raises:
        ULDError: there are none.
    """
    population = populations(labels)
    kept = population >= max(1, least)
    if not kept.any():
        most = population.max(initial=0)
        raise ULDError(
            f"no landmark has {least} labels, the most are {most}: lower "
            "methods.mallis_ch5_detector.cluster.min_labels, or label more images."
        )
    number = np.cumsum(kept) - 1
    mine = kept[labels.label]
    columns = ("image", "flipped", "xy", "score", "detected")
    some = {name: getattr(labels, name)[mine] for name in columns}
    own = {CHANNEL: np.full(mine.sum(), NEW)}
    return Labels(**some, label=number[labels.label[mine]], count=int(kept.sum()), own=own)


def populations(labels: Labels) -> NDArray[np.int64]:
    """How many labels each of K landmarks has."""
    return np.bincount(labels.label, minlength=labels.count)


def continued(labels: Labels) -> NDArray[np.int64] | None:
    """Which heat map (K,) of the start each landmark goes on with; None where each gets a new one."""
    known = np.full(labels.count, NEW)
    known[labels.label] = labels.own.get(CHANNEL, NEW)
    return known if (known != NEW).all() else None
