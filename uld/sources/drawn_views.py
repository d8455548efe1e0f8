"""Where training sees features of views that are drawn anew at every step: the network runs on warped and lit crops.

Warps, light and masks are those of `PixelViews`. Whoever does not train reads what the store holds.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from uld.artifacts.models import Origin
from uld.diffusion import online
from uld.diffusion.online import Network
from uld.diffusion.store import FeatureStore
from uld.geometry.frames import Frames, Rows
from uld.images.crops import Crops
from uld.sources import pixel_views, stored_views
from uld.sources.pixel_views import PixelViews
from uld.sources.stored_views import StoredViews
from uld.sources.views import Batch, Flags, Warps


class DrawnViews(StoredViews):
    """The fixed views of a feature store, and random ones that `network` makes features of; any thread may draw."""

    def __init__(self, store: FeatureStore, pixels: PixelViews, network: Network) -> None:
        """Nothing is computed yet.

        Args:
            pixels: draws views of the crops that the store was made of.
            network: the one that made the store.
        """
        super().__init__(store, pixels.frames, pixels.rows)
        self._pixels, self._network = pixels, network

    def draw(self, rows: Rows, flipped: Flags, rng: np.random.Generator, names: list[str]) -> Batch:
        """A random view of each of `rows` (B,), mirrored or not as `flipped` (B,) says."""
        return self._with_features(self._pixels.draw(rows, flipped, rng, names), names)

    def pairs(self, rows: Rows, same_flip: bool, rng: np.random.Generator, names: list[str]) -> Batch:
        """Two random views of each of `rows` (P,); mirrored or not is as likely."""
        return self._with_features(self._pixels.pairs(rows, same_flip, rng, names), names)

    def _with_features(self, batch: Batch, names: list[str]) -> Batch:
        """With features in place of the images of this process's share."""
        assert isinstance(batch.inputs, Tensor)
        return replace(batch, inputs=self._network.of_images(batch.inputs, names))


def open_views(
    origin: Origin, crops: Crops, frames: Frames, rows: Rows, warps: Warps | None, root: Path
) -> tuple[DrawnViews, str]:
    """The views of the store that a model of `origin` reads and those that it is trained on, and the store's checksum.

    Raises:
        ArtifactError: the store is missing, was made of other crops, or does not fit the backbone in it.
    """
    stored, digest = stored_views.open_views(origin, crops, frames, rows, warps, root)
    pixels, _ = pixel_views.open_views(origin, crops, frames, rows, None, root)
    return DrawnViews(stored.store, pixels, online.network(stored.store)), digest
