"""Heat maps averaged over warps: each mapped back to where the view shows the same place."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uld.base.errors import ParamsError, ULDError
from uld.base.params import build
from uld.geometry import coords, sampling
from uld.geometry.frames import Frames
from uld.landmarks.distil import DistilParams, heat, warps
from uld.models.base import Inputs, Maps, Model
from uld.sources.source import Source
from uld.sources.views import View, Views

SIZE, GRID = 32, 16
ROWS = np.arange(3)


class Brightness(Model):
    """Heat is how red a cell is: it moves with the image. `mark` (GRID, GRID) is added and does not move."""

    reads_pixels = True
    grid, channels, dims = GRID, 1, 1

    def __init__(self, mark: torch.Tensor | None = None) -> None:
        super().__init__()
        self.mark = torch.zeros(GRID, GRID) if mark is None else mark

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Brightness":
        return cls()

    def about(self) -> dict[str, Any]:
        return {}

    def forward(self, inputs: Inputs) -> Maps:
        assert isinstance(inputs, torch.Tensor)
        red = F.avg_pool2d(inputs[:, :1], SIZE // GRID)
        return Maps(red, (0.1 + 0.4 * red + 0.4 * self.mark).logit())


class Images(Views):
    """Smooth random images that fill their boxes."""

    def __init__(self) -> None:
        small = torch.rand(len(ROWS), 3, 6, 6, generator=torch.Generator().manual_seed(0))
        self.images = F.interpolate(small, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
        affine, boxes = np.tile(np.eye(2, 3), (3, 1, 1)), np.tile([-1.0, -1, SIZE, SIZE], (3, 1))
        self.frames = Frames(affine, boxes, lambda rows: np.ones((len(rows), SIZE, SIZE), bool), SIZE, GRID)
        self.plain = View(coords.view(SIZE), flipped=False)
        self.flips = [self.plain, self.mirror(self.plain)]

    def inputs(self, rows: np.ndarray, view: View, names: list[str]) -> Inputs:
        return sampling.warp(self.images[rows], view.affine)


def params(**changes: Any) -> DistilParams:
    return build(DistilParams, {"turns": [0], "scales": [1], "mirror": False} | changes, "distil")


@pytest.fixture
def source() -> Source:
    return Source(Brightness(), Images())


def test_off_and_nothing_but_the_image_are_the_heat_map(source: Source) -> None:
    for view in source.views.flips:
        want = source.maps(ROWS, view).heat[:, 0]
        assert torch.equal(heat(source, ROWS, view, None), want)
        torch.testing.assert_close(heat(source, ROWS, view, params()), want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mirror", [False, True])
def test_what_moves_with_the_image_stays(source: Source, mirror: bool) -> None:
    """Quarter turns and the mirror put cells on cells."""
    for view in source.views.flips:
        found = heat(source, ROWS, view, params(turns=[0, 90, 180, 270], mirror=mirror))
        torch.testing.assert_close(found, source.maps(ROWS, view).heat[:, 0], atol=1e-5, rtol=0)


def test_what_stays_where_it_is_fades() -> None:
    """A mark of the corner is seen in another corner of each of four turns, so it has a quarter in each."""
    mark = torch.zeros(GRID, GRID)
    mark[2, 3] = 1
    marked, bare = (Source(Brightness(one), Images()) for one in (mark, None))
    p = params(turns=[0, 90, 180, 270])
    gain = (heat(marked, ROWS, marked.views.plain, p) - heat(bare, ROWS, bare.views.plain, p)) / 0.4
    want = sum(mark.rot90(k) for k in range(4)) / 4
    torch.testing.assert_close(gain, want.expand(3, -1, -1), atol=1e-5, rtol=0)


def test_against_cell_by_cell(source: Source) -> None:
    p = params(turns=[0, 20], scales=[1, 1.4], mirror=True)
    view = source.views.plain
    found = heat(source, ROWS, view, p)
    assert len(warps(source, view, p)) == 8
    total, count = np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    for mirror in (False, True):
        for turn in (0, 20):
            for scale in (1, 1.4):
                warp = coords.view(SIZE, rotate=turn, scale=scale)
                if mirror:
                    warp = coords.compose(np.array([[-1.0, 0, SIZE - 1], [0, 1, 0]]), warp)
                seen = source.maps(ROWS[:1], View(warp, flipped=mirror)).heat
                for y in range(GRID):
                    for x in range(GRID):
                        pixel = coords.apply(coords.resize(GRID, SIZE), np.array([[x, y]], float))
                        at = coords.apply(coords.resize(SIZE, GRID), coords.apply(warp, pixel))
                        if (np.abs(at - (GRID - 1) / 2) <= GRID / 2).all():
                            total[y, x] += sampling.sample(seen, torch.from_numpy(at)[None]).item()
                            count[y, x] += 1
    assert count.min() >= 2 and (count < 8).any()
    np.testing.assert_allclose(found[0].numpy(), total / count, atol=1e-4)


def test_cells_that_no_warp_shows(source: Source) -> None:
    found = heat(source, ROWS, source.views.plain, params(scales=[2]))
    inside = torch.zeros(GRID, GRID, dtype=torch.bool)
    inside[4:12, 4:12] = True
    assert torch.equal(found > 0, inside.expand(3, -1, -1))


def test_refusals(source: Source) -> None:
    for wrong in ({"turns": []}, {"scales": [0]}):
        with pytest.raises(ParamsError, match="distil"):
            params(**wrong)
    source.model.reads_pixels = False  # type: ignore[misc]
    with pytest.raises(ULDError, match=r"sees no image under any warp: set methods.*distil to null"):
        heat(source, ROWS, source.views.plain, params())
