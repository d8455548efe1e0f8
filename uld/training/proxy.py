"""Training of the detector with its pose part (D-ULD++, section 3.3): descriptors and aggregator rest."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.artifacts.labels import poses_of
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.landmarks.posed import active_units
from uld.losses import duld
from uld.methods.base import Training
from uld.models import Head
from uld.models.heads import LearnedHead
from uld.models.pose import PoseParams, PoseVAE
from uld.sources.views import Ahead, Batch
from uld.training import self_training
from uld.training.fit import Figures, optimise
from uld.training.self_training import Taught


@dataclass(frozen=True, config=CLOSED)
class AloneParams:
    """A new pose part first learns alone, from heat maps made once: it needs many more steps than a detector."""

    maps: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=CLOSED)
class ElboParams:
    """Training by reconstruction."""

    alone: AloneParams | None
    steps: Annotated[int, Field(ge=0)]
    views: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(ge=0)]  # of the detector head
    pose_lr: Annotated[float, Field(gt=0)]  # of the pose part
    sigma: Annotated[float, Field(gt=0)]  # cells, of the Gaussians that detector and pose part learn
    weight: Annotated[float, Field(ge=0)]  # of the pose part's loss, whose sum over cells is first divided by G^2
    warmup: Annotated[int, Field(ge=1)]  # steps until the KL divergence has its full weight, of a new pose part
    free: Annotated[float, Field(ge=0)]  # nats a unit that cost nothing


@dataclass(frozen=True, config=CLOSED)
class ContrastParams:
    """Training by pose labels."""

    steps: Annotated[int, Field(ge=0)]
    triplets: Annotated[int, Field(ge=1)]  # a step: an image, one of its pose and one of another
    lr: Annotated[float, Field(ge=0)]
    pose_lr: Annotated[float, Field(gt=0)]
    sigma: Annotated[float, Field(gt=0)]
    weight: Annotated[float, Field(ge=0)]
    margin: Annotated[float, Field(gt=0)]  # in RMS distances between the codes that the round starts with


def by_elbo(
    head: Head, training: Training, p: ElboParams, sizes: PoseParams | None = None
) -> tuple[Head, pd.DataFrame]:
    """First step: the code of the heat map must do to rebuild the labels' map (section 3.3.1).

    The paper's reconstruction and the squared error both reach the detector.

    Args:
        sizes: of the pose part that a model without one gets.

    Raises:
        ULDError: the model cannot be trained or has no pose part, or there are no labels.
    """
    head = self_training.trainable(head, training.name)
    new = head.pose is None
    if new and sizes is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(training.rng(p.steps).integers(2**31)))  # no step draws from this stream
            head = head.with_pose(PoseVAE(training.bank.grid, **vars(sizes)))
        if p.alone is not None and not training.state.is_file():  # a kept state holds what it learned alone
            _alone(head, training, p, p.alone)
    pose, taught = part(head, training.name), _taught(training)

    def draw(number: int) -> tuple[Batch, Tensor, Tensor]:
        rng = training.rng(number)
        batch, xy = taught.read(rng.choice(taught.images, p.views), rng)
        noise = torch.from_numpy(rng.standard_normal((p.views, pose.code)).astype(np.float32))
        return batch, xy, noise.to(batch.inside.device)

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, noise = batches(number)
        heat, target, detector = _detect(head, batch, xy, p.sigma)
        logits, mu, logvar = pose(heat, noise)
        wanted, beta = pose.reframe(target, heat), min(1.0, (number + 1) / p.warmup) if new else 1.0
        loss, reconstruction, kl = duld.elbo(logits, wanted, mu, logvar, beta, p.free)
        told = {"detector": detector, "reconstruction": reconstruction, "kl": kl}
        return detector + p.weight * loss / heat[0].numel(), told

    trained, history = _train(head, training, p.lr, p.pose_lr, p.steps, step)
    active_units(_codes(trained, taught, training, p.steps))
    return trained, history


def _alone(head: LearnedHead, training: Training, p: ElboParams, alone: AloneParams) -> None:
    """Train the pose part on heat maps of the model as it is."""
    pose, taught = part(head, training.name), _taught(training)
    heat, target = _maps(head, taught, training.rng(p.steps + 1), alone.maps, p.sigma)
    optimiser = torch.optim.Adam(pose.parameters(), p.pose_lr)

    def step(number: int) -> tuple[Tensor, Figures]:
        rng = training.rng(p.steps + 2 + number)
        some = torch.from_numpy(rng.integers(0, len(heat), alone.batch)).to(heat.device)
        noise = torch.from_numpy(rng.standard_normal((alone.batch, pose.code)).astype(np.float32)).to(heat.device)
        seen = heat[some].float()
        logits, mu, logvar = pose(seen, noise)
        wanted, beta = pose.reframe(target[some].float(), seen), min(1.0, 4 * (number + 1) / alone.steps)
        loss, reconstruction, kl = duld.elbo(logits, wanted, mu, logvar, beta, p.free)
        return loss / heat[0].numel(), {"reconstruction": reconstruction, "kl": kl}

    state = training.state.with_name(f"alone-{training.state.name}")
    optimise(pose, optimiser, alone.steps, step, state, f"{training.name}, pose part")


@torch.no_grad()
def _maps(
    head: LearnedHead, taught: Taught, rng: np.random.Generator, count: int, sigma: float
) -> tuple[Tensor, Tensor]:
    """Heat maps (N, 1, G, G) float16 of random views of random images, and their targets."""
    pairs = []
    for images in np.array_split(rng.choice(taught.images, count), max(1, count // 32)):
        batch, xy = taught.read(images, rng)
        heat = batch.through(head.maps)[1].sigmoid()
        pairs.append((heat.half(), heatmaps.render(xy, head.grid, sigma)[:, None].half()))
    heat, target = (torch.cat(column) for column in zip(*pairs, strict=True))
    return heat, target


def by_contrast(head: Head, training: Training, p: ContrastParams) -> tuple[Head, pd.DataFrame]:
    """Second step: codes of one pose come together, those of different poses move apart (eq. 3); no decoder is left.

    In place of a queue of codes, each step draws images of one pose and of another by their labels.

    Raises:
        ULDError: the model cannot be trained or has no pose part, there are no labels, or all have one pose.
    """
    head = self_training.trainable(head, training.name)
    pose = part(head, training.name).without_decoder()
    head, taught, bank = head.with_pose(pose), _taught(training), training.bank
    hands = sorted(taught.xy)
    plain = {hand: int(training.labels.view[bank.mirrored[training.labels.view] == hand][0]) for hand in hands}
    of = np.stack([poses_of(training.labels, bank.rows, plain[hand]) for hand in hands])  # (hands, images)
    if len(np.unique(of[of >= 0])) < 2:
        raise ULDError(
            f"{training.name}: all images have one pose: ask for more poses, or lower steps.*.cluster.least."
        )
    margin = p.margin * _spread(_codes(head, taught, training, p.steps))

    def draw(number: int) -> tuple[Batch, Tensor]:
        rng = training.rng(number)
        anchors = rng.choice(np.flatnonzero(of.ravel() >= 0), p.triplets)
        own = of.ravel()[anchors]
        same = [rng.choice(np.flatnonzero(of.ravel() == u)) for u in own]
        other = [rng.choice(np.flatnonzero((of.ravel() != u) & (of.ravel() >= 0))) for u in own]
        hand, image = np.divmod(np.concatenate([anchors, same, other]), of.shape[1])
        return taught.read(image, rng, np.array(hands)[hand])

    batches = Ahead(draw, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy = batches(number)
        heat, _, detector = _detect(head, batch, xy, p.sigma)
        code, same, other = pose.encode(heat)[0].chunk(3)
        apart = duld.pose_contrast(code, same, other, margin)
        return detector + p.weight * apart, {"detector": detector, "contrast": apart}

    return _train(head, training, p.lr, p.pose_lr, p.steps, step)


def part(head: LearnedHead, name: str) -> PoseVAE:
    """The pose part of a model.

    Raises:
        ULDError: it has none.
    """
    if head.pose is None:
        raise ULDError(f"{name}: its start has no pose part: begin at a round of pose_proxy.")
    return head.pose


def _taught(training: Training) -> Taught:
    return Taught(training.labels, training.bank, self_training.landmarks(training), np.unique(training.labels.image))


def _detect(head: LearnedHead, batch: Batch, xy: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heat maps (B, 1, G, G), their targets, and the detector's loss."""
    heat = batch.through(head.maps)[1].sigmoid()
    target = heatmaps.render(xy, head.grid, sigma)[:, None]
    return heat, target, 2 * duld.detector_mse(heat[:, 0], target[:, 0], batch.inside)


@torch.no_grad()
def _codes(head: LearnedHead, taught: Taught, training: Training, steps: int) -> Tensor:
    """Pose codes (n, C) of some images."""
    rng = training.rng(steps)  # no step draws from this stream
    images = rng.choice(taught.images, min(256, len(taught.images)), replace=False)
    pose = part(head, training.name)
    parts = np.array_split(images, max(1, len(images) // 32))
    return torch.cat([pose.encode(taught.read(some, rng)[0].through(head.maps)[1].sigmoid())[0] for some in parts])


def _spread(codes: Tensor) -> float:
    """RMS distance between two of the codes (n, C), drawn with replacement."""
    return float((2 * codes.var(0, unbiased=False).sum()).sqrt())


def _train(
    head: LearnedHead,
    training: Training,
    lr: float,
    pose_lr: float,
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
) -> tuple[LearnedHead, pd.DataFrame]:
    """Only the detector head and the pose part learn."""
    learning = [(head.detect, lr), (part(head, training.name), pose_lr)]
    head.requires_grad_(False)
    for module, _ in learning:
        module.requires_grad_(True)
    optimiser = torch.optim.Adam([{"params": list(module.parameters()), "lr": rate} for module, rate in learning])
    history = optimise(head, optimiser, steps, step, training.state, training.name)
    return head.requires_grad_(True), history
