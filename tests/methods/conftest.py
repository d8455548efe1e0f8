"""A source of descriptors with planted landmarks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

GRID, PARTS, RADIUS = 16, 4, 2.4


class Planted:
    """Images with `PARTS` round parts on an even background. View 1 is the mirror image.

    Inside a part the descriptor tilts with the offset from the part's centre, so the centre is the mean of the part.
    """

    grid = GRID

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(3)
        home = np.array([[4, 4], [11, 4], [4, 11], [11, 11]])[:, None]
        self.centres = (home + rng.uniform(-0.7, 0.7, (PARTS, images, 2))).transpose(1, 0, 2).astype(np.float32)
        self.asked: list[int] = []

    def describe(self, rows: np.ndarray, view: int = 0) -> torch.Tensor:
        """(B, 1 + 3 PARTS, G, G): background, then part, offset in x and in y of each part."""
        self.asked.append(len(rows))
        y, x = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
        offset = torch.stack([x, y]) - torch.from_numpy(self.centres[rows])[..., None, None]
        part = (offset.norm(dim=2) < RADIUS).float()
        background = 1 - part.amax(dim=1, keepdim=True)
        maps = torch.cat([background, part, *(0.2 * part[:, :, None] * offset).unbind(dim=2)], dim=1)
        return F.normalize(maps.flip(3) if view else maps, dim=1)

    def inside(self, rows: np.ndarray, view: int = 0) -> torch.Tensor:
        """(B, G, G): all but the last row."""
        inside = torch.ones(len(rows), GRID, GRID, dtype=torch.bool)
        inside[:, -1] = False
        return inside

    def to_image(self, rows: np.ndarray, xy: np.ndarray, view: int = 0) -> np.ndarray:
        """Cells of 3 pixels, moved by the row."""
        x = GRID - 1 - xy[..., :1] if view else xy[..., :1]
        return (np.concatenate([x, xy[..., 1:]], axis=2) * 3 + rows[:, None, None]).astype(np.float32)


@pytest.fixture
def planted() -> Planted:
    return Planted(60)
