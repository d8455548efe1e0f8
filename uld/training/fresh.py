"""Models whose weights are drawn anew: a round from scratch has not learned by heart what earlier labels got wrong."""

import numpy as np
import torch

from uld.base.errors import ULDError
from uld.methods.base import Training
from uld.models.headed import Headed
from uld.training.optimiser import OptimiserParams


def begun_anew(model: Headed, channels: int, training: Training, steps: int, optimiser: OptimiserParams) -> Headed:
    """`fresh` with weights from a stream of the round that no step draws from.

    Raises:
        ULDError: as `fresh`, or the optimiser is to go on with what it remembers of other weights.
    """
    if optimiser.carried:
        raise ULDError(
            f"{training.name}: an optimiser remembers nothing of weights that are drawn anew: set optimiser.carried or "
            "fresh to false in methods.*.train."
        )
    return fresh(model, channels, training.rng(steps))


def fresh(model: Headed, channels: int, rng: np.random.Generator) -> Headed:
    """The same kind of model with C = `channels` heat maps and new weights; its buffers, which no step changes, stay.

    Raises:
        ULDError: the trunk is frozen, so its weights are those that have made the maps of a store.
    """
    about = model.about()
    if about.get("frozen_trunk"):
        raise ULDError(
            "a frozen trunk cannot be drawn anew: set methods.*.train.fresh to false, or start from a model that is no "
            "line of aggregated."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        new = type(model).of(about | {"channels": channels})
    new.load_state_dict(dict(model.named_buffers()), strict=False)
    return new.to(next(model.parameters()).device)
