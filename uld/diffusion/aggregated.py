"""The store in which an aggregator rests: its map and the training-free descriptors of every image and view.

The bootstrap has trained the aggregator; from then on it stays as it is, and rounds and rows read two maps a view
whatever the number of layers and timesteps.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from uld.base import runtime
from uld.base.params import CLOSED
from uld.base.scratch import scratch_folder
from uld.diffusion import reduce, store
from uld.diffusion.store import Features, FeatureStore
from uld.models.heads import AGGREGATED, BASE, LearnedHead


@dataclass(frozen=True, config=CLOSED)
class AggregatedParams:
    """A start whose aggregator rests."""

    features: str  # the feature store it reads: that of the start


def fill(path: Path, parent: FeatureStore, head: LearnedHead, start: str) -> None:
    """Store what is at rest in the model `start`, of all items of `parent`; resumes an interrupted run.

    Several processes divide the shards between them.

    Raises:
        runtime.Interrupted: asked to stop; finished shards are kept.
        ArtifactError: non-finite values.
    """
    own = {"keep": AGGREGATED, "start": start, "aggregator": head.fingerprint(), "parent": parent.spec["digest"]}
    spec = parent.spec | own
    scratch = scratch_folder(f"aggregate-{start}", **spec)
    if not runtime.process() and (parent.path / reduce.FILE).is_file():  # a detector of this store needs it
        shutil.copy(parent.path / reduce.FILE, scratch)

    @torch.no_grad()
    def kept(items: NDArray[np.int64]) -> Features:
        return head.at_rest(parent.views_of(items[:, 0], items[:, 1], head.names))

    def compute(first: int, end: int) -> Iterator[Features]:
        items = parent.layout.items[first:end]
        return (features for _, features in runtime.in_batches(lambda a, b: kept(items[a:b]), len(items)))

    cells = (head.grid, head.grid)
    shapes = {BASE: (len(head.base.offset), *cells), AGGREGATED: (head.aggregate.width, *cells)}
    store.build(path, scratch, spec, parent.layout, parent.path / store.BACKBONE, compute, shapes)
