"""A start on frozen features: aggregator, descriptor head and detector head, trained on pairs of views (D-ULD, 3.2)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from uld.base import random, runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.diffusion.store import FeatureStore
from uld.geometry.frames import Rows
from uld.models import aggregator
from uld.models.aggregator import Aggregator
from uld.models.frozen import ProjectionParams
from uld.models.heads import Heads, HeadsParams
from uld.sources.augmentation import PixelViewParams
from uld.sources.stored_views import StoredViews
from uld.starts import frozen
from uld.starts.base import Made, Site, Start
from uld.training.bootstrap import BootstrapParams, bootstrap, chosen

SCALE_IMAGES = 256  # images from which the spread of each channel is taken


@dataclass(frozen=True, config=CLOSED)
class HeadsStartParams:
    """A line of `starts`."""

    model: Literal["heads"]
    reads: str  # features/<line of `stores`>
    projection: (
        ProjectionParams  # of the training-free descriptors; with network.descriptor head only its grid and dims
    )
    network: HeadsParams
    # of training, rounds included; null: those of the store's bank, else each is drawn anew and the network runs on it
    views: PixelViewParams | None
    train: BootstrapParams


class HeadsStart(Start):
    """Begins with training-free descriptors, and detects nothing."""

    Params = HeadsStartParams
    params: HeadsStartParams

    @property
    def grid(self) -> int:
        """G."""
        return self.params.projection.grid

    @property
    def views(self) -> dict[str, Any] | None:
        """Warps and changes of light of views that are drawn anew; None: training sees what is stored."""
        return None if self.params.views is None else asdict(self.params.views)

    def make(self, site: Site) -> Made:
        """Build the model and train it."""
        assert isinstance(site.views, StoredViews), "this model reads features"
        model = build(self.params, site.views, site.seed)
        return Made(model, bootstrap(model, site, self.params.train))


def build(params: HeadsStartParams, views: StoredViews, seed: int) -> Heads:
    """The model before training: it describes as the training-free model or with random weights, and detects nothing.

    Raises:
        ULDError: the store lacks a layer or timestep, or sizes cannot be split into groups.
    """
    spec, sizes, store = params.projection, params.network, views.store
    rows = chosen(views.rows, spec.images, seed, "head-images")
    base = frozen.fit(spec, views, rows, seed) if sizes.begins_frozen else None
    names = [f"l{i}{j}_t{t}" for i, j in sizes.layers for t in sizes.timesteps]
    channels = _channels(store, names, rows)
    _check_groups(sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.torch_rng(seed, "head-init").initial_seed())
        if sizes.published is None:
            rest = sizes.middle, sizes.width, sizes.groups, spec.grid, sizes.aggregate_at
            aggregate = Aggregator(names, channels, *rest)
        else:
            aggregate = aggregator.published(Path(sizes.published), names, channels, spec.grid)
        dims = aggregate.width if sizes.descriptor == "aggregated" else spec.dims
        scaled = sizes.published is None
        model = Heads(base, aggregate, sizes.hidden, sizes.descriptor, dims=dims, scaled=scaled)
    if scaled:
        model.fit_scale(store.read(batch, names=names) for batch in runtime.batches(rows[:SCALE_IMAGES]))
    return model.to(runtime.device())


def _channels(store: FeatureStore, names: list[str], rows: Rows) -> list[int]:
    """Channels of each feature map.

    Raises:
        ULDError: the store lacks one.
    """
    if absent := [name for name in names if name not in store.names]:
        raise ULDError(
            f"starts: features {', '.join(absent)} are not stored: see readout.layers and readout.timesteps."
        )
    return [store.read(rows[:1], names=[name])[name].shape[1] for name in names]


def _check_groups(sizes: HeadsParams) -> None:
    widths, groups = {"middle": sizes.middle, "width": sizes.width, "hidden": sizes.hidden}, sizes.groups
    if sizes.published is not None:  # has sizes of its own
        widths, groups = {"hidden": sizes.hidden}, aggregator.PUBLISHED["groups"]
    if wrong := [f"{name} {size}" for name, size in widths.items() if size % groups]:
        raise ULDError(
            f"starts: network.{', '.join(wrong)} cannot be split into {groups} groups: take multiples of it."
        )
