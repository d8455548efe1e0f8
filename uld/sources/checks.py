"""Label-free quality of descriptors: do they match a point to itself after a known change of the image?"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.geometry import coords, sampling
from uld.geometry.frames import Rows
from uld.images.crops import Crops
from uld.models.base import Inputs, Maps, Model
from uld.sources.crop_views import CropViews
from uld.sources.source import Source
from uld.sources.views import View, Views

IMAGES = 32  # training images tried
POINTS = 64  # positions tried an image


def sample(rows: Rows) -> Rows:
    """At most `IMAGES` of the rows, evenly spread."""
    return rows[:: max(1, len(rows) // IMAGES)][:IMAGES]


def measure(source: Source, rows: Rows, rng: np.random.Generator) -> dict[str, float]:
    """`self_match` over views that turn or scale, `flip_ratio` in the mirror image; what has no such view has none."""
    figures = {}
    if turned := source.views.turned:
        figures["self_match"] = float(np.mean([self_match(source, rows, view, rng) for view in turned]))
    for flip in source.views.flips[1:]:
        figures["flip_ratio"] = flip_ratio(source, rows, flip, rng)
    return figures


class Colour(Model):
    """A baseline that knows nothing: smoothed colour and its gradients, (B, 9, G, G) of unit length."""

    reads_pixels = True
    channels = 0
    dims = 9

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Colour":
        """The model with the arguments that `about` gave."""
        return cls(**about)

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"grid": self.grid}

    def forward(self, inputs: Inputs) -> Maps:
        """Descriptors alone."""
        assert isinstance(inputs, torch.Tensor)
        small = F.interpolate(inputs, (self.grid, self.grid), mode="bilinear", antialias=True)
        padded = F.pad(small, (1, 1, 1, 1), mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        stacked = torch.cat([small - small.mean((2, 3), keepdim=True), dx, dy], 1)
        return Maps(F.normalize(stacked, dim=1))


def colour(crops: Crops, views: Views) -> Source:
    """The baseline in the same views."""
    like = CropViews(crops, views.frames, views.flips, views.turned, views.evaluation)
    return Source(Colour(views.frames.grid), like)


def self_match(source: Source, rows: Rows, view: View, rng: np.random.Generator) -> float:
    """Share of ROI cells whose best match in another view of the same image is right within one cell (PCK@1 cell).

    Both views are searched as a whole; the truth is the known affine between them.
    """
    at, kept = _points(source, rows, view, rng)
    plain = source.describe(rows, source.views.plain).cpu()
    first = F.normalize(sampling.sample(plain, torch.from_numpy(at[..., :2])), dim=2)
    best = _best(first, source, rows, view)
    wrong = np.linalg.norm(best - at[..., 2:], axis=2)
    return float((wrong[kept] <= 1.0).mean()) if kept.any() else 0.0


def flip_ratio(source: Source, rows: Rows, view: View, rng: np.random.Generator) -> float:
    """Whether a mirrored left part counts as a right part (< 1: left and right are told apart).

    `view` is a pure mirror. Cosine distance from a point to what the mirrored image shows at the same cell (the
    opposite part, looking the same way), over the distance to itself in the mirrored image.
    """
    at, kept = _points(source, rows, view, rng)
    plain, flipped = (source.describe(rows, one).cpu() for one in (source.views.plain, view))
    here, there = (sampling.sample(maps, torch.from_numpy(at[..., :2])) for maps in (plain, flipped))
    own = sampling.sample(flipped, torch.from_numpy(at[..., 2:]))
    twin = 1 - F.cosine_similarity(here, there, dim=2).numpy()[kept]
    same = 1 - F.cosine_similarity(here, own, dim=2).numpy()[kept]
    return float(twin.mean() / max(same.mean(), 1e-9))


def _points(
    source: Source, rows: Rows, view: View, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(B, P, 4): a cell x, y in the plain view and where it is in `view`; (B, P) whether it is in the ROI of both."""
    grid, frames = source.grid, source.views.frames
    inside = source.inside(rows, source.views.plain).cpu().numpy().reshape(len(rows), -1)
    cells = np.stack([rng.choice(np.flatnonzero(m) if m.any() else np.arange(grid * grid), POINTS) for m in inside])
    here = coords.cells(grid)[cells]
    there = frames.between(source.views.plain.affine, view.affine, here)
    seen = ((there >= 0) & (there <= grid - 1)).all(2)
    return np.concatenate([here, there], 2), seen & np.take_along_axis(inside, cells, 1)


def _best(descriptors: torch.Tensor, source: Source, rows: Rows, view: View) -> NDArray[np.float32]:
    """Cell (B, P, 2) of `view` most similar to each descriptor (B, P, D)."""
    target = source.describe(rows, view).cpu().flatten(2)
    index = torch.bmm(descriptors, target).argmax(2).cpu().numpy()
    return coords.cells(source.grid)[index]
