"""Training of a heat map a landmark on the points of its cluster (Mallis, thesis, chapter 6, second stage)."""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.params import CLOSED
from uld.geometry import heatmaps
from uld.losses import mallis
from uld.methods.base import Training
from uld.models.base import Model
from uld.models.headed import Headed
from uld.training.descriptor_contrast import within
from uld.training.labelled import labelled, trainable
from uld.training.optimiser import OptimiserParams, descend


@dataclass(frozen=True, config=CLOSED)
class DetectorsParams:
    """Training of the K heat maps."""

    steps: Annotated[int, Field(ge=0)]
    views: Annotated[int, Field(ge=1)]  # a step
    lr: Annotated[float, Field(gt=0)]  # of the detector head
    lr_rest: Annotated[float, Field(ge=0)]  # of all else
    optimiser: OptimiserParams
    loss: Literal["bce", "mse", "present_mse"]  # functions of `uld.losses.mallis`
    sigma: Annotated[float, Field(ge=0)]  # cells, of the Gaussian that a channel learns; 0: one cell


LOSSES = {"bce": mallis.channel_bce, "mse": mallis.channel_mse, "present_mse": mallis.present_mse}


def train(
    model: Model, training: Training, p: DetectorsParams, kept: NDArray[np.int64] | None = None
) -> tuple[Model, pd.DataFrame]:
    """Each channel learns the Gaussian of its landmark, where there is a label.

    Args:
        kept: (K,) which heat map of the model each landmark goes on with; None: all K are new.
    """
    loss_of = LOSSES[p.loss]
    one = trainable(model, training, several=kept is not None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(training.rng(p.steps).integers(2**31)))  # no step draws from this stream
        headed = one.with_channels(training.labels.count) if kept is None else one.kept_channels(kept)
    if kept is not None:
        training.moments.update(kept_moments(training.moments, headed, kept))
    batches = labelled(training, model).batches(p.views, training.rng, p.steps)

    def step(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, xy = batches(number)
        logits = batch.through(headed).logits
        assert logits is not None, "a model with heads has a detector"
        present = within(xy, headed.grid)
        target = heatmaps.render(xy.flatten(0, 1)[:, None], headed.grid, p.sigma).unflatten(0, xy.shape[:2])
        loss = loss_of(logits, target, batch.inside, present)
        return loss, {"present": present.float().mean()}

    return headed, descend(headed, groups(headed, p), p.steps, step, p.optimiser, training, training.name)


def kept_moments(moments: dict[str, Tensor], model: Headed, kept: NDArray[np.int64]) -> dict[str, Tensor]:
    """What the optimiser remembers of the last layer of the detector, of the heat maps `kept` (K,) alone.

    Args:
        moments: of a round that was trained by `train`, as `fit.optimiser_state` gives them, by the order of `groups`.
    """
    last = len(list(model.detector_head.parameters()))
    own = tuple(f"0.{place}." for place in (last - 2, last - 1))  # its weight and its bias
    return {key: value[kept] for key, value in moments.items() if key.startswith(own) and value.ndim}


def groups(model: Headed, p: DetectorsParams) -> list[dict[str, Any]]:
    """Trained parameters for an optimiser: the detector head, and all else with a learning rate of its own."""
    own = {id(one) for one in model.detector_head.parameters()}
    rest = [one for one in model.parameters() if id(one) not in own]
    return [{"params": list(model.detector_head.parameters()), "lr": p.lr}, {"params": rest, "lr": p.lr_rest}]
