"""The pose part learns by pose labels (D-ULD++, section 3.3.2, equation 3): codes of one pose come together."""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.artifacts.labels import POSE
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.sources.views import Ahead, Batch
from uld.training.labelled import LabelledImages, labelled, trainable
from uld.training.posing import codes, detected, pose_part, train_parts


@dataclass(frozen=True, config=CLOSED)
class ContrastParams:
    """Training by pose labels."""

    loss: Literal["contrast"]
    steps: Annotated[int, Field(ge=0)]
    triplets: Annotated[int, Field(ge=1)]  # a step: an image, one of its pose and one of another
    lr: Annotated[float, Field(ge=0)]  # of the detector head
    pose_lr: Annotated[float, Field(gt=0)]  # of the pose part
    sigma: Annotated[float, Field(gt=0)]  # cells, of the Gaussians that the detector learns
    weight: Annotated[float, Field(ge=0)]  # of equation 3 against the detector's loss
    margin: Annotated[float, Field(gt=0)]  # in RMS distances between the codes that the round starts with


def train(model: Model, training: Training, p: ContrastParams) -> tuple[Model, pd.DataFrame]:
    """Train detector head and pose part; no decoder is left.

    In place of a queue of codes, each step draws images of one pose and of another by their labels.

    Raises:
        ULDError: the model cannot be trained or has no pose part, there are no labels, or all have one pose.
    """
    headed = trainable(model, training)
    pose = pose_part(headed, training.name).without_decoder()
    headed, images = headed.with_pose(pose), labelled(training, model)
    of = _poses(training, images)
    margin = p.margin * spread(codes(headed, images, training, p.steps))
    batches = Ahead(lambda number: _triplets(images, of, p.triplets, training.rng(number)), p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy = batches(number)
        heat, _, detector = detected(headed, batch, xy, p.sigma)
        code, same, other = pose.encode(heat)[0].chunk(3)
        apart = duld.pose_contrast(code, same, other, margin)
        return detector + p.weight * apart, {"detector": detector, "contrast": apart}

    return train_parts(headed, training, p.lr, p.pose_lr, p.steps, step)


def _poses(training: Training, images: LabelledImages) -> NDArray[np.int64]:
    """Pose (F, n) of each training image in each flip, -1 where it has none.

    Raises:
        ULDError: all have one pose.
    """
    of = np.stack([training.labels.own_of(POSE, training.views.rows, flip) for flip in images.flips])
    if len(np.unique(of[of >= 0])) < 2:
        raise ULDError(f"{training.name}: all images have one pose: ask for more poses, or lower poses.min_images.")
    return of


def _triplets(
    images: LabelledImages, of: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Batch, Tensor]:
    """A batch of images, then as many of the same poses, then as many of others; and its labels."""
    anchors = rng.choice(np.flatnonzero(of.ravel() >= 0), count)
    own = of.ravel()[anchors]
    same = [rng.choice(np.flatnonzero(of.ravel() == u)) for u in own]
    other = [rng.choice(np.flatnonzero((of.ravel() != u) & (of.ravel() >= 0))) for u in own]
    flip, image = np.divmod(np.concatenate([anchors, same, other]), of.shape[1])
    return images.draw(image, rng, np.array(images.flips)[flip])


def spread(some: Tensor) -> float:
    """RMS distance between two of the codes (n, C), drawn with replacement."""
    return float((2 * some.var(0, unbiased=False).sum()).sqrt())
