"""A source of descriptors with planted landmarks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uld.artifacts.labels import Labels
from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.methods.base import Task, Training
from uld.models.aggregator import Aggregator
from uld.models.base import Maps, Model
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.sources.source import Source
from uld.sources.stored_views import StoredViews
from uld.sources.views import View

GRID, PARTS, RADIUS = 16, 4, 2.4
PLAIN = View(coords.view(3 * GRID), flipped=False)
MIRROR = View(coords.view(3 * GRID, mirror=True), flipped=True)
TURN = View(coords.view(3 * GRID, rotate=90), flipped=False)  # a quarter
VIEWS = [PLAIN, MIRROR, TURN]


class Planted:
    """Images with `PARTS` round parts on an even background, in the views PLAIN, MIRROR and TURN.

    Inside a part the descriptor tilts with the offset from the part's centre, so the centre is the mean of the part.
    There is a Gaussian of heat at each centre, in one heat map or in as many as there are parts.
    """

    grid, detects, encodes = GRID, True, True

    def __init__(self, images: int, channels: int = 1) -> None:
        """`heights` (images, views, PARTS): of the heat, to be changed."""
        self.channels = channels
        self.views = SimpleNamespace(plain=PLAIN, flips=[PLAIN, MIRROR], turned=[TURN], evaluation=[], mirror=_mirror)
        self.heights = np.full((images, len(VIEWS), PARTS), 0.9, dtype=np.float32)
        rng = np.random.default_rng(3)
        home = np.array([[4, 4], [11, 4], [4, 11], [11, 11]])[:, None]
        self.centres = (home + rng.uniform(-0.7, 0.7, (PARTS, images, 2))).transpose(1, 0, 2).astype(np.float32)
        self.asked: list[int] = []

    @property
    def model(self) -> "Planted":
        """What tells how many heat maps there are."""
        return self

    def describe(self, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
        """(B, 1 + 3 PARTS, G, G): background, then part, offset in x and in y of each part."""
        self.asked.append(len(rows))
        offset = self._offset(rows)
        part = (offset.norm(dim=2) < RADIUS).float()
        background = 1 - part.amax(dim=1, keepdim=True)
        maps = torch.cat([background, part, *(0.2 * part[:, :, None] * offset).unbind(dim=2)], dim=1)
        return F.normalize(self._seen(maps, view), dim=1)

    def maps(self, rows: np.ndarray, view: View = PLAIN) -> Maps:
        """Descriptors, heat (B, 1 or PARTS, G, G) with sigma 1 cell, and codes."""
        height = torch.from_numpy(self.heights[rows, VIEWS.index(view)])[..., None, None]
        heat = torch.exp(-self._offset(rows).square().sum(2) / 2) * height
        heat = self._seen(heat if self.channels == PARTS else heat.amax(1, keepdim=True), view)
        return Maps(self.describe(rows, view), heat.logit(), self._codes(heat))

    def _codes(self, heat: torch.Tensor) -> torch.Tensor:
        """(B, 3): the spread of the heat in x and in y, and a unit that says nothing."""
        mass = heat.amax(1)
        cell = torch.arange(float(GRID))
        spread = []
        for profile in (mass.sum(1), mass.sum(2)):
            weight = profile / profile.sum(1, keepdim=True)
            mean = (weight * cell).sum(1, keepdim=True)
            spread.append((weight * (cell - mean) ** 2).sum(1).sqrt())
        return torch.stack([*spread, torch.ones(len(heat))], 1)

    def inside(self, rows: np.ndarray, view: View = PLAIN) -> torch.Tensor:
        """(B, G, G): all but the last row of the untouched view."""
        inside = torch.ones(len(rows), 1, GRID, GRID, dtype=torch.bool)
        inside[:, :, -1] = False
        return self._seen(inside, view)[:, 0]

    def to_image(self, rows: np.ndarray, xy: np.ndarray, view: View = PLAIN) -> np.ndarray:
        """Cells of 3 pixels, moved by the row."""
        crop = coords.apply(coords.invert(_affine(view)), xy)
        return (crop + rows[:, None, None]).astype(np.float32)

    def to_cells(self, rows: np.ndarray, xy: np.ndarray, view: View = PLAIN) -> np.ndarray:
        """The way back."""
        return coords.apply(_affine(view), xy - rows[:, None, None])

    def _offset(self, rows: np.ndarray) -> torch.Tensor:
        """(B, PARTS, 2, G, G) from each part's centre."""
        y, x = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
        return torch.stack([x, y]) - torch.from_numpy(self.centres[rows])[..., None, None]

    def _seen(self, maps: torch.Tensor, view: View) -> torch.Tensor:
        """(B, C, G, G) as they look in a view."""
        return (maps, maps.flip(3), maps.rot90(-1, (2, 3)))[VIEWS.index(view)]


def _mirror(view: View) -> View:
    return {PLAIN: MIRROR, MIRROR: PLAIN}[view]


def _affine(view: View) -> np.ndarray:
    """Pixels of the untouched view, of which cell 0 has its centre at 0, to cells of a view."""
    cells = coords.compose(coords.resize(3 * GRID, GRID), view.affine)
    return coords.compose(cells, np.array([[1.0, 0, 1], [0, 1, 1]]))


def task(source: Any, rows: np.ndarray, count: int = PARTS, previous: Labels | None = None, seed: int = 0) -> Task:
    """What landmarks are discovered on."""
    return Task(source, rows, count, np.random.default_rng(seed), previous)


@pytest.fixture
def planted() -> Planted:
    return Planted(60)


class Store:
    """Feature maps of a `Planted`, in place of a feature store: its descriptors and some noise."""

    name, channels = "l00_t5", 1 + 3 * PARTS + 2
    views, flipped = np.stack([view.affine for view in VIEWS]), np.array([view.flipped for view in VIEWS])
    bank = len(VIEWS)

    def __init__(self, planted: Planted) -> None:
        self.planted = planted
        self.asked: list[int] = []

    def views_of(self, rows: np.ndarray, views: np.ndarray, names: list[str]) -> dict[str, torch.Tensor]:
        """{name: (B, C, G, G)} of each image in its view."""
        self.asked += list(rows)
        items = zip(rows, views, strict=True)
        return {self.name: torch.cat([self.read(np.array([row]), view, names)[self.name] for row, view in items])}

    def read(self, rows: np.ndarray, view: int, names: list[str]) -> dict[str, torch.Tensor]:
        assert names == [self.name]
        maps = self.planted.describe(rows, VIEWS[view])
        noise = [torch.randn(2, GRID, GRID, generator=torch.Generator().manual_seed(int(row))) for row in rows]
        return {self.name: torch.cat([maps, 0.3 * torch.stack(noise)], dim=1)}


class Course:
    """All that a round of training on a `Planted` needs: a model, the views, and what the model then sees."""

    def __init__(self, planted: Planted, folder: Path) -> None:
        images, size = len(planted.centres), 3 * GRID
        self.store, self.state = Store(planted), folder / "state.pt"
        move = np.arange(images)[:, None]
        affine = np.tile(np.eye(2, 3), (images, 1, 1))
        affine[:, :, 2] = 1 - move
        boxes = np.concatenate([np.tile([-9.0, -9.0, 60.0, 43.5], (images, 1)) + move], axis=1)
        frames = Frames(affine, boxes, lambda rows: np.ones((len(rows), size, size), bool), size, GRID)
        self.views = StoredViews(self.store, frames, np.arange(images))  # type: ignore[arg-type]

    def head(self) -> Heads:
        """An untrained model whose descriptors are those of the `Planted`."""
        names, sizes = [self.store.name], [self.store.channels]
        base = Frozen(names, sizes, 1 + 3 * PARTS, GRID, "dataset")
        base.projection.copy_(torch.eye(*base.projection.shape))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Heads(base, Aggregator(names, sizes, 8, 16, 4, GRID), 16, "linear")

    def training(self, labels: Labels, seed: int = 0) -> Training:
        """The round."""
        return Training(labels, self.views, lambda step: np.random.default_rng([seed, step]), self.state, "round one")

    def source(self, model: Model) -> Source:
        """What a model sees of the `Planted`."""
        return Source(model, self.views)


@pytest.fixture
def course(planted: Planted, tmp_path: Path) -> Course:
    return Course(planted, tmp_path)
