"""Bootstrapping of a model: descriptors that recognise a point in another view, and a detector of points.

Pairs of views of one image, whose correspondence is known, teach the descriptors: every cell by the negative
log-likelihood of its true match among all cells (SiLK, ICCV 2023), or the points of a teacher by contrast, as in rounds
(Mallis, thesis, 2023). The detector learns which cells are found again (SiLK), or to fire where SuperPoint or a
classical detector does, or where a file says.
"""

from collections.abc import Callable
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
from uld.cluster.spool import Spool
from uld.geometry import heatmaps
from uld.geometry.frames import Rows
from uld.images.crops import as_images
from uld.keypoints import outliers
from uld.losses import duld, silk
from uld.models.headed import Headed, refuse_collapse
from uld.sources.views import Ahead, Batch, TrainingViews
from uld.starts.base import Site
from uld.training.descriptor_contrast import contrast, draw_cells, shown
from uld.training.fit import Figures
from uld.training.optimiser import OptimiserParams, descend

SILK = "silk"

Step = Callable[[int], tuple[Tensor, Figures]]  # as `fit` takes them


@closed(frozen=True, config=CLOSED)
class SilkParams:
    """The detector learns which cells find their partner in the other view: round trips (SiLK)."""

    tolerance: Annotated[int, Field(ge=0)]  # cells by which a match may be off; 0: as published


@closed(frozen=True, config=CLOSED)
class DescriptorContrastParams:
    """Descriptors learn that a teacher's point is itself in the other view and nothing else in its own (Mallis)."""

    margin: Annotated[float, Field(gt=0)]
    negatives: Annotated[int, Field(ge=0)]  # random cells a view, beside the other points
    min_distance: Annotated[float, Field(ge=0)]  # cells between a point and its negatives, at least
    weight: Annotated[float, Field(ge=0)]  # against the detector's loss


@closed(frozen=True, config=CLOSED)
class BootstrapParams:
    """Training of a start on pairs of views."""

    # what teaches the detector: {by: silk, tolerance}, or {by: superpoint | classical | learned | file, ...} and that
    # teacher's params
    keypoints: dict[str, Any]
    # share of the points of another teacher than silk that is left out, in the whole data set; 0: none
    outliers: Annotated[float, Field(ge=0, lt=1)]
    # cells; of the Gaussian that stands for a point of such a teacher; 0: one cell
    sigma: Annotated[float, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]
    descriptor_lr: Annotated[float, Field(ge=0)]  # of the descriptor head
    optimiser: OptimiserParams
    contrast: DescriptorContrastParams | None  # null: SiLK's likelihood
    temperature: Annotated[float, Field(gt=0)]  # of SiLK's softmax, on cosines; not used with `contrast`
    flips: Literal["both", "one"]  # both: a pair is mirrored as a whole or not at all; one: any two views meet


def teacher(p: BootstrapParams, key: str) -> Any:
    """The params of what teaches a detector: `SilkParams`, or those of a detector of points.

    Args:
        p: what it teaches. key: where that stands in params.yaml.

    Raises:
        ParamsError: an unknown teacher, params that are not its own, or others that need its points where it has none.
    """
    place = f"{key}.keypoints"
    by, rest = keypoints.named(p.keypoints, place, SILK)
    if by != SILK:
        return keypoints.chosen(p.keypoints, place)[1]
    _refuse_points(p, key)
    return build(SilkParams, rest, place)


def _refuse_points(p: BootstrapParams, key: str) -> None:
    """Refuse what needs the points of a teacher."""
    for name, wanted, off in (("outliers", p.outliers > 0, "0"), ("contrast", p.contrast is not None, "null")):
        if wanted:
            raise ParamsError(
                f"params.yaml: {key}.{name}: must be {off} where keypoints.by is {SILK}, which finds no points: set it "
                f"so, or let {' or '.join(keypoints.POINTS)} teach."
            )


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
    taught = teacher(p, f"starts.{site.name}.train")
    itself = isinstance(taught, SilkParams)
    points = None if itself else _points(taught, p, site)
    if p.contrast is None:
        step = _by_likelihood(model, site, p, taught.tolerance if itself else 0, points)
    else:
        assert points is not None, "a teacher without points is refused"
        step = _by_contrast(model, site, p, p.contrast, points)
    groups = model.groups(p.lr, p.descriptor_lr)
    return descend(model, groups, p.steps, step, p.optimiser, site, f"bootstrap {site.name}")


def _by_likelihood(
    model: Headed, site: Site, p: BootstrapParams, tolerance: int, points: NDArray[np.float32] | None
) -> Step:
    """Descriptors learn by the likelihood of true matches, the detector by cross entropy: round trips, or `points`."""
    views = site.views

    def draw(number: int) -> Pairs:
        return pairs(views, p, model.maps_read(), random.rng(site.seed, f"pairs-{site.name}", number))

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, Figures]:
        drawn = batches(number)
        maps = drawn.batch.through(model)
        nll, success = matching(maps.looks, drawn, p.temperature, tolerance)
        refuse_collapse(maps.looks, site.name)
        target = success.unflatten(1, (model.grid, model.grid))
        if points is not None:
            xy = _in_cells(points, views, drawn.batch)
            target = heatmaps.render(xy, model.grid, p.sigma).masked_fill(~drawn.batch.inside, torch.nan)
        assert maps.logits is not None, "a model with heads has a detector"
        detection = silk.detector_bce(maps.logits[:, 0], target)
        return nll + detection, {"nll": nll, "detector": detection, "round_trips": success.nanmean()}

    return step


def _by_contrast(
    model: Headed, site: Site, p: BootstrapParams, c: DescriptorContrastParams, points: NDArray[np.float32]
) -> Step:
    """The loss of a round of self-training; a label is the number of a point in its image."""
    views = site.views

    def draw(number: int) -> tuple[Batch, Tensor]:
        rng = random.rng(site.seed, f"pairs-{site.name}", number)
        batch = two_views(views, p, model.maps_read(), rng)
        return batch, draw_cells(batch, c.negatives, rng)

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, Figures]:
        batch, cells = batches(number)
        maps = batch.through(model)
        refuse_collapse(maps.looks, site.name)
        xy = _in_cells(points, views, batch)
        xy = xy.masked_fill(~shown(xy, batch.inside)[..., None], torch.nan)
        target = heatmaps.render(xy, model.grid, p.sigma)
        detector = 2 * duld.detector_mse(maps.heat[:, 0], target, batch.inside)
        descriptor = contrast(maps.looks, xy, cells, batch.inside, c.margin, c.min_distance)
        return detector + c.weight * descriptor, {"detector": detector, "descriptor": descriptor}

    return step


def two_views(views: TrainingViews, p: BootstrapParams, names: list[str], rng: np.random.Generator) -> Batch:
    """Draw P images and two views of each."""
    rows = rng.choice(views.rows, p.pairs, replace=p.pairs > len(views.rows))
    return views.pairs(rows, p.flips == "both", rng, names)


def pairs(views: TrainingViews, p: BootstrapParams, names: list[str], rng: np.random.Generator) -> Pairs:
    """The same, and which cell of one view shows what a cell of the other one shows."""
    batch = two_views(views, p, names, rng)
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


def _points(block: Any, p: BootstrapParams, site: Site) -> NDArray[np.float32]:
    """The teacher's points (n, P, 2) in all training images, in image pixels, NaN where an image has fewer.

    Outliers are searched among the points of the objects, and what lies beside an object is dropped with them.

    Raises:
        ULDError: there are none.
    """
    source, views = p.keypoints["by"], site.views
    detector = keypoints.load(source)(block)
    found: list[NDArray[np.float32]] = []
    looks = Spool()  # descriptors of all of them
    for row in views.rows:
        images = as_images(site.crops.images(slice(int(row), int(row) + 1)), runtime.device())
        (points,) = detector.of(views, np.array([row]), views.plain)(images)
        xy = views.frames.crop_to_image(np.array([row]), points[None, :, :2])[0]
        if p.outliers:
            low, high = views.frames.boxes[row].reshape(2, 2)
            of_object = ((xy >= low) & (xy <= high)).all(1)
            xy = xy[of_object]
            looks.append(detector.describe(images, [points[of_object]])[0])
        found.append(xy)
    if not any(map(len, found)):
        raise ULDError(f"{source} finds no point in any training image: {detector.remedy}.")
    if p.outliers:
        kept = outliers.typical(looks, p.outliers, random.rng(site.seed, f"outliers-{site.name}"))
        ends = np.cumsum([len(xy) for xy in found])[:-1]
        found = [xy[keep] for xy, keep in zip(found, np.split(kept, ends), strict=True)]
    return _filled_up(found)


def _filled_up(found: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Points (P, 2) of each of n images -> (n, most P, 2), NaN where an image has fewer."""
    xy = np.full((len(found), max(map(len, found)), 2), np.nan, dtype=np.float32)
    for image, points in enumerate(found):
        xy[image, : len(points)] = points
    return xy


def _in_cells(points: NDArray[np.float32], views: TrainingViews, batch: Batch) -> Tensor:
    """The points (B, P, 2) of a batch's images in cells of their views; `points` as `_points` gives them."""
    return views.to_cells(batch, points[np.searchsorted(views.rows, batch.rows)])


def chosen(rows: Rows, count: int, seed: int, purpose: str) -> Rows:
    """At most `count` of the rows, sorted, drawn for a purpose."""
    return np.sort(random.rng(seed, purpose).permutation(rows)[:count])
