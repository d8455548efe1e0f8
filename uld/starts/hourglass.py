"""A start on images: the hourglass of Mallis (thesis, 2023, chapter 6)."""

from dataclasses import asdict
from typing import Literal

from pydantic.dataclasses import dataclass

from uld.base.params import CLOSED
from uld.models.hourglass import Hourglass, HourglassParams
from uld.sources.augmentation import PixelViewParams
from uld.starts.on_crops import CropStart
from uld.training.bootstrap import BootstrapParams


@dataclass(frozen=True, config=CLOSED)
class HourglassStartParams:
    """A line of `starts`."""

    model: Literal["hourglass"]
    reads: Literal["roi/crops"]
    network: HourglassParams
    views: PixelViewParams
    train: BootstrapParams


class HourglassStart(CropStart):
    """The hourglass."""

    Params = HourglassStartParams
    params: HourglassStartParams

    def build(self, size: int) -> Hourglass:
        """The hourglass for crops of `size` pixels a side."""
        return Hourglass(size, **asdict(self.params.network))
