"""What the two trainings of the pose part share (D-ULD++, section 3.3): descriptors and trunk are frozen."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from uld.base.errors import ULDError
from uld.geometry import heatmaps
from uld.losses import duld
from uld.methods.base import Training
from uld.models.headed import Headed
from uld.models.pose import PoseVAE
from uld.sources.views import Batch
from uld.training.fit import Figures, fit
from uld.training.labelled import LabelledImages


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
    lr: float,
    pose_lr: float,
    steps: int,
    step: Callable[[int], tuple[Tensor, Figures]],
    memory: nn.Module | None = None,
) -> tuple[Headed, pd.DataFrame]:
    """Only the detector head and the pose part learn; `memory` holds what steps remember beside their weights."""
    learning = [(model.detector_head, lr), (pose_part(model, training.name), pose_lr)]
    model.requires_grad_(False)
    for module, _ in learning:
        module.requires_grad_(True)
    optimiser = torch.optim.Adam([{"params": list(module.parameters()), "lr": rate} for module, rate in learning])
    whole = model if memory is None else nn.ModuleList([model, memory])
    history = fit(whole, [optimiser], steps, step, training.state, training.name)
    return model.requires_grad_(True), history
