"""A start on images: a plain convolutional encoder with the two heads, trained on pairs of warped crops."""

from dataclasses import asdict
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass

from uld.base import random, runtime
from uld.base.params import CLOSED
from uld.models.encoder import Encoder, EncoderParams
from uld.sources.augmentation import PixelViewParams
from uld.starts.base import Made, Site, Start
from uld.training.bootstrap import BootstrapParams, bootstrap


@dataclass(frozen=True, config=CLOSED)
class EncoderStartParams:
    """A line of `starts`."""

    model: Literal["encoder"]
    reads: Literal["roi/crops"]
    network: EncoderParams
    views: PixelViewParams
    train: BootstrapParams


class EncoderStart(Start):
    """Begins with random weights."""

    Params = EncoderStartParams
    params: EncoderStartParams

    @property
    def grid(self) -> int:
        """G."""
        return self.params.network.grid

    @property
    def views(self) -> dict[str, Any]:
        """Warps and changes of light."""
        return asdict(self.params.views)

    def make(self, site: Site) -> Made:
        """Build the model and train it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_rng(site.seed, f"{site.name}-init").initial_seed())
            sizes = asdict(self.params.network) | {"widths": list(self.params.network.widths)}
            model = Encoder(site.crops.size, **sizes).to(runtime.device())
        return Made(model, bootstrap(model, site, self.params.train))
