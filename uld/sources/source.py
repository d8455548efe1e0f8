"""What a model says of images on a grid, from a feature store or computed on the spot."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from uld.base import runtime
from uld.base.errors import ULDError
from uld.diffusion.extract import as_images
from uld.diffusion.extractor import Extractor
from uld.diffusion.reduce import Reduction
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords
from uld.geometry.coords import Affine
from uld.geometry.frames import Frames, Rows, corners
from uld.images.crops import Crops
from uld.models import Head, LearnedHead


class GridSource:
    """What a model says of rows in a view: descriptors (B, D, G, G) and, if it has them, heat maps and pose codes."""

    def __init__(
        self,
        place: Frames,
        describe: Callable[[Rows, int], torch.Tensor],
        mirrored: NDArray[np.bool_],
        maps: Callable[[Rows, int], tuple[torch.Tensor, torch.Tensor]] | None = None,
        encode: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Take the functions of a model.

        Views of `place` beyond those of `mirrored` are the evaluation's warps.

        Args:
            describe: -> descriptors (B, D, G, G). maps: -> descriptors and logits of heat maps (B, C, G, G).
            mirrored: (B,). encode: heat (B, 1, G, G) in [0, 1] -> pose codes (B, C).
        """
        self.views, self.mirrored = place.views[: len(mirrored)], mirrored  # of the bank: (B, 2, 3) crop -> view; (B,)
        self.warps = range(len(mirrored), len(place.views))  # views that only test images have
        self._place, self._describe, self._maps, self._encode = place, describe, maps, encode

    @property
    def grid(self) -> int:
        """G."""
        return self._place.grid

    @property
    def detects(self) -> bool:
        """Whether the model has heat maps."""
        return self._maps is not None

    @property
    def poses(self) -> bool:
        """Whether the model has pose codes."""
        return self._encode is not None

    @torch.no_grad()
    def describe(self, rows: Rows, view: int = 0) -> torch.Tensor:
        """(B, D, G, G) of unit length."""
        return self._describe(rows, view)

    @torch.no_grad()
    def maps(self, rows: Rows, view: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Descriptors and heat maps (B, C, G, G) in [0, 1].

        Raises:
            ULDError: the model has no detector.
        """
        if self._maps is None:
            raise ULDError("this model has no detector: begin at a start with head: learned, or at a round.")
        descriptors, logits = self._maps(rows, view)
        return descriptors, logits.sigmoid()

    @torch.no_grad()
    def codes(self, heat: torch.Tensor) -> torch.Tensor:
        """Pose codes (B, C): the mean code of the highest of an image's heat maps (B, C, G, G), cell by cell.

        Raises:
            ULDError: the model has no pose part.
        """
        if self._encode is None:
            raise ULDError("this model has no pose part: begin at a round whose step trains one.")
        return self._encode(heat.amax(1, keepdim=True))

    def inside(self, rows: Rows, view: int = 0) -> torch.Tensor:
        """(B, G, G) bool."""
        return torch.from_numpy(self._place.inside(rows, view)).to(runtime.device())

    def to_image(self, rows: Rows, xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Cells (B, P, 2) -> image pixels."""
        return self._place.to_image(rows, xy, view)

    def to_cells(self, rows: Rows, xy: NDArray[np.float32], view: int = 0) -> NDArray[np.float32]:
        """Image pixels (B, P, 2) -> cells."""
        return self._place.to_cells(rows, xy, view)


def frames(store: FeatureStore, crops: Crops, boxes: pd.DataFrame, grid: int) -> Frames:
    """Geometry of all rows and views of a store.

    Raises:
        ArtifactError: the store was made of other crops.
    """
    store.check(crops=crops.fingerprint())
    return Frames(crops.affine, corners(boxes), store.views, crops.inside, crops.size, grid)


def from_store(store: FeatureStore, head: Head, crops: Crops, boxes: pd.DataFrame) -> GridSource:
    """Source over all rows and views of a feature store."""
    place, names = frames(store, crops, boxes, head.grid), head.reads(store)
    return _of(head, place, lambda rows, view: store.read(rows, view, names), store.flipped[: store.bank])


def _of(
    head: Head, place: Frames, features: Callable[[Rows, int], Features], mirrored: NDArray[np.bool_]
) -> GridSource:
    maps = head.maps if isinstance(head, LearnedHead) else None
    pose = head.pose if isinstance(head, LearnedHead) else None
    return GridSource(
        place,
        lambda rows, view: head(features(rows, view)),
        mirrored,
        None if maps is None else lambda rows, view: maps(features(rows, view)),
        None if pose is None else lambda heat: pose.encode(heat)[0],
    )


def live(
    extractor: Extractor,
    reduction: Reduction | None,
    head: Head,
    pixels: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    affine: Affine,
    boxes: NDArray[np.float64],
    at_rest: bool = False,
) -> GridSource:
    """Source that runs the network on crops (B, S, S, 3) in memory; untouched view only.

    Args:
        at_rest: whether the head's aggregator rests, so that the pipeline read its maps from a store.
    """
    size = pixels.shape[1]
    identity = coords.view(size)[None]
    place = Frames(affine, boxes, identity, lambda rows: inside[rows], size, head.grid)

    def features(rows: Rows, view: int) -> Features:
        found = extractor(as_images(pixels[rows], extractor.backbone.alphas.device))
        kept = _as_stored(found if reduction is None else reduction(found))
        return _as_stored(head.at_rest(kept)) if at_rest and isinstance(head, LearnedHead) else kept

    return _of(head, place, features, np.zeros(1, bool))


def _as_stored(features: Features) -> Features:
    """Through float16, as a store keeps them: a photograph gets the coordinates that the pipeline gave it."""
    return {name: value.half().float() for name, value in features.items()}
