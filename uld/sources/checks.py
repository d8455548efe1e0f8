"""Label-free quality of descriptors: do they match a point to itself after a known change of the image?"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.diffusion.extract import as_images
from uld.geometry import coords, views
from uld.geometry.frames import Frames, Rows
from uld.images.crops import Crops
from uld.sources.source import GridSource

IMAGES = 32  # training images tried
POINTS = 64  # positions tried an image


def sample(rows: Rows) -> Rows:
    """At most `IMAGES` of the rows, evenly spread."""
    return rows[:: max(1, len(rows) // IMAGES)][:IMAGES]


def measure(source: GridSource, rows: Rows, rng: np.random.Generator) -> dict[str, float]:
    """`self_match` over the unmirrored views of the bank, `flip_ratio` in its first pure mirror; without one, none."""
    figures = {}
    if turned := views.turned(source.mirrored):
        figures["self_match"] = float(np.mean([self_match(source, rows, v, rng) for v in turned]))
    for mirror in views.mirror(source.views):
        figures["flip_ratio"] = flip_ratio(source, rows, mirror, rng)
    return figures


def colour(crops: Crops, frames: Frames, mirrored: NDArray[np.bool_]) -> GridSource:
    """A baseline that knows nothing: smoothed colour and its gradients, (B, 9, G, G) of unit length."""

    def describe(rows: Rows, view: int) -> torch.Tensor:
        images = coords.warp(as_images(crops.images(rows), torch.device("cpu")), frames.views[view])
        small = F.interpolate(images, (frames.grid, frames.grid), mode="bilinear", antialias=True)
        padded = F.pad(small, (1, 1, 1, 1), mode="replicate")
        dx = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        dy = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        stacked = torch.cat([small - small.mean((2, 3), keepdim=True), dx, dy], 1)
        return F.normalize(stacked, dim=1)

    return GridSource(frames, describe, mirrored)


def self_match(source: GridSource, rows: Rows, view: int, rng: np.random.Generator) -> float:
    """Share of ROI cells whose best match in another view of the same image is right within one cell (PCK@1 cell).

    Both views are searched as a whole; the truth is the known affine between them.
    """
    at, kept = _points(source, rows, view, rng)
    first = F.normalize(coords.sample(source.describe(rows).cpu(), torch.from_numpy(at[..., :2])), dim=2)
    best = _best(first, source, rows, view)
    wrong = np.linalg.norm(best - at[..., 2:], axis=2)
    return float((wrong[kept] <= 1.0).mean()) if kept.any() else 0.0


def flip_ratio(source: GridSource, rows: Rows, view: int, rng: np.random.Generator) -> float:
    """Whether a mirrored left part counts as a right part (< 1: left and right are told apart).

    `view` is a pure mirror. Cosine distance from a point to what the mirrored image shows at the same cell (the
    opposite part, looking the same way), over the distance to itself in the mirrored image.
    """
    at, kept = _points(source, rows, view, rng)
    here, there = (coords.sample(source.describe(rows, v).cpu(), torch.from_numpy(at[..., :2])) for v in (0, view))
    own = coords.sample(source.describe(rows, view).cpu(), torch.from_numpy(at[..., 2:]))
    twin = 1 - F.cosine_similarity(here, there, dim=2).numpy()[kept]
    same = 1 - F.cosine_similarity(here, own, dim=2).numpy()[kept]
    return float(twin.mean() / max(same.mean(), 1e-9))


def _points(
    source: GridSource, rows: Rows, view: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(B, P, 4): a cell x, y in view 0 and where it is in `view`; (B, P) whether it is in the ROI of both."""
    grid = source.grid
    inside = source.inside(rows).cpu().numpy().reshape(len(rows), -1)
    cells = np.stack([rng.choice(np.flatnonzero(m) if m.any() else np.arange(grid * grid), POINTS) for m in inside])
    here = coords.cells(grid)[cells]
    there = _transfer(source, rows, here, view)
    seen = ((there >= 0) & (there <= grid - 1)).all(2)
    return np.concatenate([here, there], 2), seen & np.take_along_axis(inside, cells, 1)


def _transfer(source: GridSource, rows: Rows, xy: NDArray[np.float32], view: int) -> NDArray[np.float32]:
    """Cells of view 0 to cells of another view: invert the affine cell -> image, known from three corner cells."""
    corner = np.broadcast_to(np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32), (len(rows), 3, 2))
    at = source.to_image(rows, corner, view).astype(np.float64)
    affine = np.stack([at[:, 1] - at[:, 0], at[:, 2] - at[:, 0], at[:, 0]], axis=2)
    return coords.apply(coords.invert(affine), source.to_image(rows, xy, 0))


def _best(descriptors: torch.Tensor, source: GridSource, rows: Rows, view: int) -> NDArray[np.float32]:
    """Cell (B, P, 2) of `view` most similar to each descriptor (B, P, D)."""
    target = source.describe(rows, view).cpu().flatten(2)
    index = torch.bmm(descriptors, target).argmax(2).cpu().numpy()
    return coords.cells(source.grid)[index]
