"""A start on images: a plain convolutional encoder."""

from dataclasses import asdict
from typing import Literal

from pydantic.dataclasses import dataclass

from uld.base.params import CLOSED
from uld.models.encoder import Encoder, EncoderParams
from uld.sources.augmentation import PixelViewParams
from uld.starts.on_crops import CropStart
from uld.training.bootstrap import BootstrapParams


@dataclass(frozen=True, config=CLOSED)
class EncoderStartParams:
    """A line of `starts`."""

    model: Literal["encoder"]
    reads: Literal["roi/crops"]
    network: EncoderParams
    views: PixelViewParams
    train: BootstrapParams


class EncoderStart(CropStart):
    """The plain encoder."""

    Params = EncoderStartParams
    params: EncoderStartParams

    def build(self, size: int) -> Encoder:
        """The encoder for crops of `size` pixels a side."""
        sizes = asdict(self.params.network)
        return Encoder(size, **sizes | {"widths": list(sizes["widths"])})
