"""Bootstrapping of a model: descriptors that recognise a point in another view, and a detector of points.

Pairs of views of one image, whose correspondence is known, teach the descriptors (SiLK, ICCV 2023: negative
log-likelihood of the true match among all cells). The detector learns which cells are found again (SiLK), or to fire
where SuperPoint or a classical detector does.
"""

from dataclasses import dataclass
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
from uld.base.errors import ParamsError, ULDError
from uld.base.params import CLOSED, build
from uld.geometry import heatmaps
from uld.geometry.frames import Rows
from uld.images.crops import Crops, as_images
from uld.losses import silk
from uld.models.headed import Headed, refuse_collapse
from uld.sources.views import Ahead, Batch, TrainingViews
from uld.starts.base import Site
from uld.training.optimiser import OptimiserParams, descend

SILK = "silk"


@closed(frozen=True, config=CLOSED)
class SilkParams:
    """The detector learns which cells find their partner in the other view: round trips (SiLK)."""

    tolerance: Annotated[int, Field(ge=0)]  # cells by which a match may be off; 0: as published


@closed(frozen=True, config=CLOSED)
class BootstrapParams:
    """Training of a start on pairs of views."""

    # what teaches the detector: {by: silk, tolerance}, or {by: superpoint | classical, ...} and that detector's params
    keypoints: dict[str, Any]
    sigma: Annotated[
        float, Field(ge=0)
    ]  # cells; of the Gaussian that stands for a point of superpoint or classical; 0: one cell
    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]  # of the descriptor head
    optimiser: OptimiserParams
    temperature: Annotated[float, Field(gt=0)]  # of the matching softmax, on cosines
    flips: Literal["both", "one"]  # both: a pair is mirrored as a whole or not at all; one: any two views meet


def teacher(block: dict[str, Any], key: str) -> Any:
    """The params of what teaches a detector: `SilkParams`, or those of a detector of points.

    Args:
        block: `BootstrapParams.keypoints`. key: where it stands in params.yaml.

    Raises:
        ParamsError: an unknown teacher, or params that are not its own.
    """
    rest = dict(block)
    by = str(rest.pop("by", None))
    if by not in (SILK, *keypoints.POINTS):
        raise ParamsError(f"params.yaml: {key}.by: must be one of {', '.join((SILK, *keypoints.POINTS))}, not '{by}'.")
    return build(SilkParams if by == SILK else keypoints.load(by).Params, rest, key)


@dataclass(frozen=True)
class Pairs:
    """P pairs of views: batch of 2P items, first all a, then all b; partner (P, G * G) as in `losses.silk`."""

    batch: Batch
    partner: Tensor


def bootstrap(model: Headed, site: Site, p: BootstrapParams) -> pd.DataFrame:
    """Train a model on the training images.

    Returns:
        A line a training step.

    Raises:
        stop.Interrupted: asked to stop; the state is kept. ULDError: the loss is not finite, descriptors have
            collapsed, or no two views can be paired.
    """
    views, taught = site.views, teacher(p.keypoints, f"starts.{site.name}.train.keypoints")
    itself = isinstance(taught, SilkParams)
    tolerance = taught.tolerance if itself else 0
    points = None if itself else _points(p.keypoints["by"], taught, site.crops, views)

    def draw(number: int) -> Pairs:
        return pairs(views, p, model.maps_read(), random.rng(site.seed, f"pairs-{site.name}", number))

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = batches(number)
        maps = drawn.batch.through(model)
        nll, success = matching(maps.looks, drawn, p.temperature, tolerance)
        refuse_collapse(maps.looks, site.name)
        target = success.unflatten(1, (model.grid, model.grid))
        if points is not None:
            xy = views.to_cells(drawn.batch, points[np.searchsorted(views.rows, drawn.batch.rows)])
            target = heatmaps.render(xy, model.grid, p.sigma).masked_fill(~drawn.batch.inside, torch.nan)
        assert maps.logits is not None, "a model with heads has a detector"
        detection = silk.detector_bce(maps.logits[:, 0], target)
        return nll + detection, {"nll": nll, "detector": detection, "round_trips": success.nanmean()}

    groups = model.groups(p.lr, p.descriptor_lr)
    return descend(model, groups, p.steps, step, p.optimiser, site, f"bootstrap {site.name}")


def pairs(views: TrainingViews, p: BootstrapParams, names: list[str], rng: np.random.Generator) -> Pairs:
    """Draw P images and two views of each."""
    rows = rng.choice(views.rows, p.pairs, replace=p.pairs > len(views.rows))
    batch = views.pairs(rows, p.flips == "both", rng, names)
    partner = views.partner(batch)
    in_a, in_b = batch.inside.flatten(1).chunk(2)
    return Pairs(batch, torch.where(in_a & in_b.gather(1, partner.clamp_min(0)), partner, -1))


def matching(descriptors: Tensor, drawn: Pairs, temperature: float, tolerance: int) -> tuple[Tensor, Tensor]:
    """Loss of the descriptors (2P, D, G, G), and which cells (2P, G * G) succeed (see `silk.round_trips`)."""
    a, b = descriptors.flatten(2).transpose(1, 2).chunk(2)
    in_a, in_b = drawn.batch.inside.flatten(1).chunk(2)
    matches = silk.all_pairs(a.contiguous(), b.contiguous(), in_a, in_b, temperature)
    nll = silk.matching_nll(a, b, matches, drawn.partner, temperature)
    return nll, torch.cat(silk.round_trips(matches, drawn.partner, descriptors.shape[-1], tolerance))


def _points(source: str, block: Any, crops: Crops, views: TrainingViews) -> NDArray[np.float32]:
    """The teacher's points (n, P, 2) in all training images, in image pixels, NaN where an image has fewer."""
    detector, rows = keypoints.load(source)(block), views.rows
    found: list[NDArray[np.float32]] = []
    for row in rows:
        found += detector(as_images(crops.images(slice(int(row), int(row) + 1)), runtime.device()))
    most = max((len(points) for points in found), default=0)
    if not most:
        raise ULDError(f"{source} finds no point in any training image: lower its threshold.")
    xy = np.full((len(rows), most, 2), np.nan, dtype=np.float32)
    for number, points in enumerate(found):
        xy[number, : len(points)] = views.frames.crop_to_image(rows[[number]], points[None, :, :2])[0]
    return xy


def chosen(rows: Rows, count: int, seed: int, purpose: str) -> Rows:
    """At most `count` of the rows, sorted, drawn for a purpose."""
    return np.sort(random.rng(seed, purpose).permutation(rows)[:count])
