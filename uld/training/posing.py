"""What the two trainings of the pose part share (D-ULD++, section 3.3): descriptors and trunk are frozen."""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.losses import duld
from uld.methods.base import Training
from uld.models.headed import Headed
from uld.models.pose import PoseVAE
from uld.sources.views import Batch
from uld.training.fit import Figures
from uld.training.labelled import LabelledImages
from uld.training.optimiser import OptimiserParams, descend


@dataclass(frozen=True, config=CLOSED)
class PosingParams:
    """What is common to both."""

    steps: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(ge=0)]  # of the detector head
    pose_lr: Annotated[float, Field(gt=0)]  # of the pose part
    optimiser: OptimiserParams
    sigma: Annotated[float, Field(ge=0)]  # cells, of the Gaussians that detector and pose part learn; 0: one cell


def pose_part(model: Headed, name: str) -> PoseVAE:
    """The pose part of a model.

    Raises:
        ULDError: it has none.
    """
    if model.pose is None:
        raise ULDError(f"{name}: its start has no pose part: begin at a round of pose_proxy.")
    return model.pose


def detected(model: Headed, batch: Batch, xy: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heat maps (B, 1, G, G), their targets, and the detector's loss."""
    heat = batch.through(model).heat
    target = heatmaps.render(xy, model.grid, sigma)[:, None]
    return heat, target, 2 * duld.detector_mse(heat[:, 0], target[:, 0], batch.inside)


@torch.no_grad()
def codes(model: Headed, images: LabelledImages, training: Training, steps: int) -> Tensor:
    """Pose codes (n, C) of some images."""
    rng = training.rng(steps)  # no step draws from this stream
    some = rng.choice(images.images, min(256, len(images.images)), replace=False)
    pose = pose_part(model, training.name)
    parts = np.array_split(some, max(1, len(some) // 32))
    return torch.cat([pose.encode(images.draw(part, rng)[0].through(model).heat)[0] for part in parts])


def train_parts(
    model: Headed,
    training: Training,
    p: PosingParams,
    step: Callable[[int], tuple[Tensor, Figures]],
    memory: nn.Module | None = None,
) -> tuple[Headed, pd.DataFrame]:
    """Only the detector head and the pose part learn; `memory` holds what steps remember beside their weights."""
    learning = [(model.detector_head, p.lr), (pose_part(model, training.name), p.pose_lr)]
    model.requires_grad_(False)
    for module, _ in learning:
        module.requires_grad_(True)
    groups = [{"params": list(module.parameters()), "lr": rate} for module, rate in learning]
    whole = model if memory is None else nn.ModuleList([model, memory])
    history = descend(whole, groups, p.steps, step, p.optimiser, training, training.name)
    return model.requires_grad_(True), history
