"""The pose part learns by reconstruction (D-ULD++, section 3.3.1): its code must do to rebuild the labels' map."""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.landmarks.posed import awake
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import Headed
from uld.models.pose import PoseParams, PoseVAE
from uld.sources.views import Ahead, Batch
from uld.training.fit import Figures, fit
from uld.training.labelled import LabelledImages, labelled, trainable
from uld.training.posing import PosingParams, codes, detected, pose_part, train_parts


@dataclass(frozen=True, config=CLOSED)
class PretrainParams:
    """A new pose part first learns alone, from heat maps made once: it needs many more steps than a detector."""

    maps: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=CLOSED)
class ElboParams(PosingParams):
    """Training by reconstruction."""

    loss: Literal["elbo"]
    views: Annotated[int, Field(ge=1)]  # a step
    weight: Annotated[float, Field(ge=0)]  # of the pose part's loss, whose sum over cells is first divided by G^2
    free_nats: Annotated[float, Field(ge=0)]  # of the KL divergence of a unit that cost nothing


@dataclass(frozen=True, config=CLOSED)
class ProxyParams(ElboParams):
    """Training of a model that gets its pose part."""

    pose: PoseParams
    pretrain: PretrainParams | None  # null: the pose part learns with the detector from the first step
    kl_warmup: Annotated[int, Field(ge=1)]  # steps until the KL divergence has its full weight


def train(
    model: Model, training: Training, p: ElboParams, new: ProxyParams | None = None
) -> tuple[Model, pd.DataFrame]:
    """Train detector head and pose part; the reconstruction and the squared error both reach the detector.

    Args:
        new: says what pose part a model without one gets.

    Raises:
        ULDError: the model cannot be trained or has no pose part, or there are no labels.
    """
    headed, warmup = trainable(model, training), 1
    if headed.pose is None and new is not None:
        headed, warmup = _with_new_part(headed, training, new), new.kl_warmup
    pose, images = pose_part(headed, training.name), labelled(training, model)

    def draw(number: int) -> tuple[Batch, Tensor, Tensor]:
        rng = training.rng(number)
        batch, xy = images.draw(rng.choice(images.images, p.views), rng)
        noise = torch.from_numpy(rng.standard_normal((p.views, pose.code)).astype(np.float32))
        return batch, xy, noise.to(batch.inside.device)

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, noise = batches(number)
        heat, target, detector = detected(headed, batch, xy, p.sigma)
        loss, told = _reconstruct(pose, heat, target, noise, min(1.0, (number + 1) / warmup), p.free_nats)
        return detector + p.weight * loss, {"detector": detector} | told

    trained, history = train_parts(headed, training, p, step)
    awake(codes(trained, images, training, p.steps))
    return trained, history


def _reconstruct(
    pose: PoseVAE, heat: Tensor, target: Tensor, noise: Tensor, beta: float, free: float
) -> tuple[Tensor, Figures]:
    """Negative evidence lower bound a cell, and its two terms an image."""
    logits, mu, logvar = pose(heat, noise)
    wanted = pose.reframe(target, heat)
    loss, reconstruction, kl = duld.elbo(logits, wanted, mu, logvar, beta, free)
    return loss / heat[0].numel(), {"reconstruction": reconstruction, "kl": kl}


def _with_new_part(headed: Headed, training: Training, p: ProxyParams) -> Headed:
    """The model with a pose part that has learned alone, if it is to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(training.rng(p.steps).integers(2**31)))  # no step draws from this stream
        model = headed.with_pose(PoseVAE(headed.grid, **vars(p.pose)))
    if p.pretrain is not None and not training.state.is_file():  # a kept state holds what it learned alone
        _pretrain(model, training, p, p.pretrain)
    return model


def _pretrain(model: Headed, training: Training, p: ProxyParams, alone: PretrainParams) -> None:
    """Train the pose part on heat maps of the model as it is."""
    pose, images = pose_part(model, training.name), labelled(training, model)
    heat, target = _maps(model, images, training.rng(p.steps + 1), alone.maps, p.sigma)
    optimiser = torch.optim.Adam(pose.parameters(), p.pose_lr)

    def step(number: int) -> tuple[Tensor, Figures]:
        rng = training.rng(p.steps + 2 + number)
        some = torch.from_numpy(rng.integers(0, len(heat), alone.batch)).to(heat.device)
        noise = torch.from_numpy(rng.standard_normal((alone.batch, pose.code)).astype(np.float32)).to(heat.device)
        beta = min(1.0, 4 * (number + 1) / alone.steps)
        return _reconstruct(pose, heat[some].float(), target[some].float(), noise, beta, p.free_nats)

    state = training.state.with_name(f"alone-{training.state.name}")
    fit(pose, [optimiser], alone.steps, step, state, f"{training.name}, pose part")


@torch.no_grad()
def _maps(
    model: Headed, images: LabelledImages, rng: np.random.Generator, count: int, sigma: float
) -> tuple[Tensor, Tensor]:
    """Heat maps (N, 1, G, G) float16 of random views of random images, and their targets."""
    pairs = []
    for some in np.array_split(rng.choice(images.images, count), max(1, count // 32)):
        batch, xy = images.draw(some, rng)
        heat = batch.through(model).heat
        pairs.append((heat.half(), heatmaps.render(xy, model.grid, sigma)[:, None].half()))
    heat, target = (torch.cat(column) for column in zip(*pairs, strict=True))
    return heat, target
