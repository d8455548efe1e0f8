"""Bootstrapping of the trained model: descriptors that recognise a point in another view, and a detector of points.

Pairs of views of one image, whose correspondence is known, teach the descriptors (SILK, ICCV 2023: negative
log-likelihood of the true match among all cells). The detector learns which cells are found again (SILK), or to fire
where SuperPoint or a classical detector does.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from torch import Tensor

from uld import keypoints
from uld.base import random, runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.base.scratch import scratch_folder
from uld.diffusion.extract import as_images
from uld.diffusion.store import FeatureStore
from uld.geometry import heatmaps
from uld.geometry.frames import Frames, Rows
from uld.images.crops import Crops
from uld.losses import silk
from uld.models import aggregator, frozen, refuse_collapse
from uld.models.aggregator import Aggregator
from uld.models.frozen import ProjectionParams
from uld.models.heads import LearnedHead, ModelParams
from uld.sources.views import Ahead, Bank, Batch
from uld.training.fit import fit

SCALE_IMAGES = 256  # images from which the spread of each channel is taken


@closed(frozen=True, config=CLOSED)
class SilkParams:
    """The detector learns which cells find their partner in the other view: round trips (SILK)."""

    tolerance: Annotated[int, Field(ge=0)]  # cells by which a match may be off; 0: as published


@closed(frozen=True, config=CLOSED)
class BootstrapParams:
    """A start that is trained on pairs of views."""

    head: Literal["learned"]
    features: str  # the feature store it reads: a line of `networks`
    projection: ProjectionParams
    model: ModelParams
    keypoints: Literal["silk", "superpoint", "classical"]  # what teaches the detector: a line of `keypoints`
    sigma: Annotated[float, Field(gt=0)]  # cells; of the Gaussian that stands for a point of superpoint or classical
    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]  # of the matching softmax, on cosines
    flips: Literal["both", "one"]  # both: a pair is mirrored as a whole or not at all; one: views of any hand meet


def teacher(name: str) -> type[Any]:
    """The type of the block `keypoints.<name>`."""
    return SilkParams if name == "silk" else keypoints.load(name).Params


@dataclass(frozen=True)
class Pairs:
    """P pairs of views: batch of 2P items, first all a, then all b; partner (P, G * G) as in `losses`."""

    batch: Batch
    partner: Tensor


def bootstrap(
    block: BootstrapParams,
    taught: Any,
    store: FeatureStore,
    frames: Frames,
    crops: Crops,
    rows: Rows,
    seed: int,
    name: str,
) -> tuple[LearnedHead, pd.DataFrame]:
    """Train a model on the training images `rows`.

    Args:
        taught: the block `keypoints.<block.keypoints>`.

    Returns:
        The model and a line a training step.

    Raises:
        runtime.Interrupted: asked to stop; the state is kept. ULDError: the loss is not finite, descriptors have
            collapsed, a layer is not in the store, or no two views can be paired.
    """
    head = build(block, store, frames, rows, seed)
    bank = Bank(store, frames, rows, head.names)
    tolerance = taught.tolerance if isinstance(taught, SilkParams) else 0
    points = None if block.keypoints == "silk" else _points(block.keypoints, taught, crops, frames, rows)
    optimiser = torch.optim.Adam(head.groups(block.lr, block.descriptor_lr))
    batches = Ahead(lambda step: pairs(bank, block, random.rng(seed, f"pairs-{name}", step)), block.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = batches(number)
        descriptors, logits = drawn.batch.through(head.maps)
        nll, success = matching(descriptors, drawn, block.temperature, tolerance)
        refuse_collapse(descriptors, name)
        target = success.unflatten(1, (bank.grid, bank.grid))
        if points is not None:
            xy = bank.to_cells(drawn.batch, points[np.searchsorted(rows, drawn.batch.rows)])
            target = heatmaps.render(xy, bank.grid, block.sigma).masked_fill(~drawn.batch.inside, torch.nan)
        detection = silk.detector_bce(logits[:, 0], target)
        return nll + detection, {"nll": nll, "detector": detection, "round_trips": success.nanmean()}

    identity = {"params": asdict(block), "teacher": asdict(taught), "seed": seed}
    identity |= {"features": store.spec, "rows": rows.tolist()}
    state = scratch_folder(f"bootstrap-{name}", **identity) / "state.pt"
    return head, fit(head, [optimiser], block.steps, step, state, f"bootstrap {name}")


def build(block: BootstrapParams, store: FeatureStore, frames: Frames, rows: Rows, seed: int) -> LearnedHead:
    """The model before training: it describes as the training-free head does, and detects nothing."""
    spec, model = block.projection, block.model
    chosen = np.sort(random.rng(seed, "head-images").permutation(rows)[: spec.images])
    base = frozen.fit(spec, store.read, frames.inside, chosen, random.rng(seed, "head-points"))
    names = [f"l{i}{j}_t{t}" for i, j in model.layers for t in model.timesteps]
    absent = [name for name in names if name not in store.names]
    if absent:
        raise ULDError(
            f"starts: features {', '.join(absent)} are not stored: see readout.layers and readout.timesteps."
        )
    sizes = [store.read(chosen[:1], names=[name])[name].shape[1] for name in names]
    _check_groups(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.torch_rng(seed, "head-init").initial_seed())
        if model.published is None:
            aggregate = Aggregator(names, sizes, model.middle, model.width, model.groups, spec.grid, model.aggregate_at)
        else:
            aggregate = aggregator.published(Path(model.published), names, sizes, spec.grid)
        head = LearnedHead(base, aggregate, model.hidden, model.descriptor)
    head.fit_scale(store.read(batch, names=names) for batch in runtime.batches(chosen[:SCALE_IMAGES]))
    return head.to(runtime.device())


def _check_groups(model: ModelParams) -> None:
    sizes = {"middle": model.middle, "width": model.width, "hidden": model.hidden}
    groups = model.groups
    if model.published is not None:  # has sizes of its own
        sizes, groups = {"hidden": model.hidden}, aggregator.PUBLISHED["groups"]
    wrong = [f"{name} {size}" for name, size in sizes.items() if size % groups]
    if wrong:
        raise ULDError(f"starts: model.{', '.join(wrong)} cannot be split into {groups} groups: take multiples of it.")


def pairs(bank: Bank, block: BootstrapParams, rng: np.random.Generator) -> Pairs:
    """Draw P images and two views of each."""
    rows = rng.choice(bank.rows, block.pairs, replace=block.pairs > len(bank.rows))
    views = np.stack([bank.two(rng, block.flips == "both") for _ in rows])
    batch = bank.read(np.tile(rows, 2), views.T.ravel())
    partner = torch.from_numpy(np.stack([bank.partner(a, b) for a, b in views])).to(batch.inside.device)
    in_a, in_b = batch.inside.flatten(1).chunk(2)
    return Pairs(batch, torch.where(in_a & in_b.gather(1, partner.clamp_min(0)), partner, -1))


def matching(descriptors: Tensor, drawn: Pairs, temperature: float, tolerance: int) -> tuple[Tensor, Tensor]:
    """Loss of the descriptors (2P, D, G, G), and which cells (2P, G * G) succeed (see `losses.round_trips`)."""
    a, b = descriptors.flatten(2).transpose(1, 2).chunk(2)
    in_a, in_b = drawn.batch.inside.flatten(1).chunk(2)
    matches = silk.all_pairs(a.contiguous(), b.contiguous(), in_a, in_b, temperature)
    nll = silk.matching_nll(a, b, matches, drawn.partner, temperature)
    return nll, torch.cat(silk.round_trips(matches, drawn.partner, descriptors.shape[-1], tolerance))


def _points(source: str, block: Any, crops: Crops, frames: Frames, rows: Rows) -> NDArray[np.float32]:
    """The teacher's points (n, P, 2) in all training images, in image pixels, NaN where an image has fewer."""
    detector = keypoints.load(source)(block)
    found: list[NDArray[np.float32]] = []
    for row in rows:
        found += detector(as_images(crops.images(slice(int(row), int(row) + 1)), runtime.device()))
    most = max((len(points) for points in found), default=0)
    if not most:
        raise ULDError(f"{source} finds no point in any training image: lower its threshold.")
    xy = np.full((len(rows), most, 2), np.nan, dtype=np.float32)
    for number, points in enumerate(found):
        xy[number, : len(points)] = frames.crop_to_image(rows[[number]], points[None, :, :2])[0]
    return xy
