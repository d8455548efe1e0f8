"""Frozen trunks: a store of the aggregated map and the training-free descriptors of every image and view.

The bootstrap has trained the aggregator; in a start of `aggregated` it stays as it is, and rounds and rows read two
maps a view whatever the number of layers and timesteps.
"""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.base.scratch import scratch_folder
from uld.diffusion import building, reduce
from uld.diffusion.store import BACKBONE, Features, FeatureStore
from uld.models.base import Model
from uld.models.heads import AGGREGATED, Heads


@dataclass(frozen=True, config=CLOSED)
class AggregatedParams:
    """A start that freezes the trunk of another one."""

    reads: str  # what that start reads: features/<line of `stores`>
    start: str


def frozen_trunk(model: Model, start: str) -> Heads:
    """The model of a start, which from now on reads what its trunk has made.

    Raises:
        ULDError: it has no trunk.
    """
    if not isinstance(model, Heads) or model.frozen_trunk:
        raise ULDError(f"aggregated: '{start}' has no aggregator to freeze: name a start of model heads.")
    frozen = deepcopy(model)
    frozen.frozen_trunk = True
    return frozen


def fill(path: Path, parent: FeatureStore, model: Heads, made_of: str, name: str) -> None:
    """Store what the trunk makes of all items of `parent`; resumes an interrupted run.

    Several processes divide the shards between them.

    Args:
        made_of: fingerprint of the model's weights. name: of the new start.

    Raises:
        stop.Interrupted: asked to stop; finished shards are kept.
        ArtifactError: non-finite values.
    """
    own = {"keep": AGGREGATED, "trunk": made_of, "parent": parent.spec["digest"]}
    spec = parent.spec | own
    scratch = scratch_folder(f"aggregate-{name}", **spec)
    if not runtime.process() and (parent.path / reduce.FILE).is_file():  # a detector of this store needs it
        shutil.copy(parent.path / reduce.FILE, scratch)
    names = model.maps_of_trunk()

    @torch.no_grad()
    def kept(items: NDArray[np.int64]) -> Features:
        return model.trunk(parent.views_of(items[:, 0], items[:, 1], names))

    def compute(first: int, end: int) -> Iterator[Features]:
        items = parent.layout.items[first:end]
        return (features for _, features in runtime.in_batches(lambda a, b: kept(items[a:b]), len(items)))

    building.build(path, scratch, spec, parent.layout, parent.path / BACKBONE, compute, model.trunk_shapes)
