"""The pose part learns by pose labels (D-ULD++, section 3.3.2, equation 3): codes of one pose come together.

Equation 3 compares an image with any of its pose and any of another, and does not say where they come from. Here each
step draws them, or it takes them from its own images and a queue of the codes of earlier ones.
"""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.artifacts.labels import POSE
from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.sources.views import Ahead, Batch
from uld.training.labelled import LabelledImages, labelled, trainable
from uld.training.posing import PosingParams, codes, detected, pose_part, train_parts


@dataclass(frozen=True, config=CLOSED)
class ContrastParams(PosingParams):
    """Training by pose labels."""

    loss: Literal["contrast"]
    triplets: Annotated[
        int, Field(ge=1)
    ]  # a step: an image, one of its pose and one of another; with a queue any three
    queue: Annotated[int, Field(ge=0)]  # codes of earlier images to compare with; 0: a step draws what it compares
    weight: Annotated[float, Field(ge=0)]  # of equation 3 against the detector's loss
    margin: Annotated[float, Field(gt=0)]  # of equation 3
    relative: (
        bool  # the margin is in RMS distances between the codes that the round starts with; false: as in the paper
    )


def train(model: Model, training: Training, p: ContrastParams) -> tuple[Model, pd.DataFrame]:
    """Train detector head and pose part; no decoder is left.

    Raises:
        ULDError: the model cannot be trained or has no pose part, there are no labels, or all have one pose.
    """
    headed = trainable(model, training)
    pose = pose_part(headed, training.name).without_decoder()
    headed, images = headed.with_pose(pose), labelled(training, model)
    of = _poses(training, images)
    margin = p.margin * spread(codes(headed, images, training, p.steps)) if p.relative else p.margin
    queue = Queue(p.queue, pose.code).to(runtime.device()) if p.queue else None
    draw = _triplets if queue is None else _any
    batches = Ahead(lambda number: draw(images, of, p.triplets, training.rng(number)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy, own = batches(number)
        heat, _, detector = detected(headed, batch, xy, p.sigma)
        code = pose.encode(heat)[0]
        if queue is None:
            code, same, other = code.chunk(3)
        else:
            same, other = queue.partners(code, own, training.rng(p.steps + 1 + number))
            queue.push(code, own)
        apart = duld.pose_contrast(code, same, other, margin)
        active = duld.within_margin(code, other, margin)
        return detector + p.weight * apart, {"detector": detector, "contrast": apart, "active": active}

    return train_parts(headed, training, p, step, queue)


class Queue(nn.Module):
    """The codes of the last images, and the poses that these have; -1 where there is none yet."""

    codes: Tensor
    poses: Tensor

    def __init__(self, size: int, length: int) -> None:
        """For `size` codes (length,)."""
        super().__init__()
        self.register_buffer("codes", torch.zeros(size, length))
        self.register_buffer("poses", torch.full((size,), -1))

    def push(self, code: Tensor, own: NDArray[np.int64]) -> None:
        """Add codes (B, length) of images of poses `own` (B,); the oldest ones leave."""
        size = len(self.codes)
        self.codes = torch.cat([code.detach(), self.codes])[:size]
        self.poses = torch.cat([torch.from_numpy(own).to(self.poses.device), self.poses])[:size]

    def partners(self, code: Tensor, own: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """For each of the images, the code of a random one of its pose and of a random one of another.

        Args:
            code: (B, length). own: (B,) poses.

        Returns:
            Two of (B, length), out of the other images and the queue; rows of NaN where there is none.
        """
        of = np.concatenate([own, self.poses.cpu().numpy()])
        alike = own[:, None] == of
        different = ~alike & (of >= 0)
        alike[np.arange(len(own)), np.arange(len(own))] = False
        among = torch.cat([code, self.codes])
        return _taken(among, alike, rng), _taken(among, different, rng)


def _taken(among: Tensor, allowed: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """For each line of `allowed` (B, M) one of the rows of `among` (M, C) that it allows; NaN where it allows none."""
    chosen = (rng.random(allowed.shape) * allowed).argmax(1)
    none = torch.from_numpy(~allowed.any(1)).to(among.device)
    return among[torch.from_numpy(chosen).to(among.device)].masked_fill(none[:, None], torch.nan)


def _poses(training: Training, images: LabelledImages) -> NDArray[np.int64]:
    """Pose (F, n) of each training image in each flip, -1 where it has none.

    Raises:
        ULDError: all have one pose.
    """
    of = np.stack([training.labels.own_of(POSE, training.views.rows, flip) for flip in images.flips])
    if len(np.unique(of[of >= 0])) < 2:
        raise ULDError(f"{training.name}: all images have one pose: ask for more poses, or lower poses.min_images.")
    return of


def _any(
    images: LabelledImages, of: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Batch, Tensor, NDArray[np.int64]]:
    """A batch of 3 x `count` images that have a pose, its labels, and the poses."""
    return _drawn(images, of, rng.choice(np.flatnonzero(of.ravel() >= 0), 3 * count), rng)


def _triplets(
    images: LabelledImages, of: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Batch, Tensor, NDArray[np.int64]]:
    """The same; first some images, then as many of the same poses, then as many of others."""
    anchors = rng.choice(np.flatnonzero(of.ravel() >= 0), count)
    own = of.ravel()[anchors]
    same = [rng.choice(np.flatnonzero(of.ravel() == u)) for u in own]
    other = [rng.choice(np.flatnonzero((of.ravel() != u) & (of.ravel() >= 0))) for u in own]
    return _drawn(images, of, np.concatenate([anchors, same, other]), rng)


def _drawn(
    images: LabelledImages, of: NDArray[np.int64], chosen: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Batch, Tensor, NDArray[np.int64]]:
    """Images by their places in `of` (F, n)."""
    flip, image = np.divmod(chosen, of.shape[1])
    return *images.draw(image, rng, np.array(images.flips)[flip]), of.ravel()[chosen]


def spread(some: Tensor) -> float:
    """RMS distance between two of the codes (n, C), drawn with replacement."""
    return float((2 * some.var(0, unbiased=False).sum()).sqrt())
