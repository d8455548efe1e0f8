"""A start on crops: a network that reads images, with the two heads, trained on pairs of views drawn anew."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any

import torch

from uld.base import random, runtime
from uld.models.headed import Headed
from uld.starts.base import Made, Site, Start
from uld.training.bootstrap import bootstrap


class CropStart(Start):
    """Begins with random weights; `params` has `network`, `views` and `train`."""

    @property
    def grid(self) -> int:
        """G."""
        grid: int = self.params.network.grid
        return grid

    @property
    def views(self) -> dict[str, Any]:
        """Warps and changes of light."""
        return asdict(self.params.views)

    @abstractmethod
    def build(self, size: int) -> Headed:
        """The network for crops of `size` pixels a side, with random weights."""

    def make(self, site: Site) -> Made:
        """Build the model and train it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_rng(site.seed, f"{site.name}-init").initial_seed())
            model = self.build(site.crops.size).to(runtime.device())
        return Made(model, bootstrap(model, site, self.params.train))
