"""Training of one heat map on points that are not told apart, without descriptors (Mallis, thesis, 2023, chapter 4).

The points are noisy labels. Few steps, large batches, a low learning rate and weight decay let the model learn what
many images agree on before it learns the noise by heart.
"""

from typing import Annotated, Any

import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.losses import duld
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import Headed
from uld.training.fresh import begun_anew
from uld.training.labelled import labelled, trainable
from uld.training.optimiser import OptimiserParams, descend


@dataclass(frozen=True, config=CLOSED)
class PointsParams:
    """Training of the one heat map."""

    steps: Annotated[int, Field(ge=0)]
    views: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]
    optimiser: OptimiserParams
    sigma: Annotated[float, Field(ge=0)]  # cells, of the Gaussian at each point; 0: one cell
    fresh: bool  # whether the round begins with weights drawn anew, as published; else with those of its start


def train(model: Model, training: Training, p: PointsParams) -> tuple[Model, pd.DataFrame]:
    """Squared error of the heat map against Gaussians at all points of an image; images without a point teach nothing.

    Raises:
        ULDError: the model cannot be trained, has several heat maps, or there are no labels.
    """
    headed = trainable(model, training)
    if p.fresh:
        headed = begun_anew(headed, 1, training, p.steps, p.optimiser)
    batches = labelled(training, model).batches(p.views, training.rng, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy = batches(number)
        heat = batch.through(headed).heat[:, 0]
        loss = duld.detector_mse(heat, heatmaps.render(xy, headed.grid, p.sigma), batch.inside)
        return loss, {"points": xy.isfinite().all(2).sum(1).float().mean()}

    return headed, descend(headed, group(headed, p.lr), p.steps, step, p.optimiser, training, training.name)


def group(model: Headed, lr: float) -> list[dict[str, Any]]:
    """Trained parameters for an optimiser: all but those that the heat map does not depend on."""
    idle = {id(one) for part in (model.descriptor_head, model.pose) if part is not None for one in part.parameters()}
    return [{"params": [one for one in model.parameters() if id(one) not in idle], "lr": lr}]
