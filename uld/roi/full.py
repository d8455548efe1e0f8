"""`full`: the whole photograph, for images that are cropped already, and as the end of a chain."""

from pydantic.dataclasses import dataclass

from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider


@dataclass(frozen=True, config=CLOSED)
class FullParams:
    """Nothing to choose."""


class Full(Provider):
    """The image's own edges, score 1."""

    Params = FullParams
    label = "full"

    def __init__(self, params: FullParams, context: Context) -> None:
        """See `Provider`."""

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`."""
        return [Box(-0.5, -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, 1.0) for image in images]
