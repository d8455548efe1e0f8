"""The label-free gates on sources whose answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.images.crops import Crops
from uld.sources import checks
from uld.sources.source import GridSource

GRID, SIZE, IMAGES = 16, 32, 6
VIEWS = np.stack(
    [coords.view(SIZE), coords.view(SIZE, mirror=True), coords.view(SIZE, rotate=15), coords.view(SIZE, scale=1.15)]
)
MIRRORED = np.array([False, True, False, False])
ROWS = np.arange(IMAGES)


def frames(inside: np.ndarray | None = None) -> Frames:
    """Boxes of different places and sizes in the photographs; crops with a margin of 10 %."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (IMAGES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (IMAGES, 1))], 1)
    mask = np.ones((IMAGES, SIZE, SIZE), bool) if inside is None else inside
    return Frames(coords.crop(boxes, 0.1, SIZE), boxes, VIEWS, lambda rows: mask[rows], SIZE, GRID)


def place(view: int) -> Tensor:
    """(G*G, 2): where the cells of a view are in the crop, scaled to -1..1."""
    to_crop = coords.compose(coords.invert(VIEWS[view]), coords.resize(GRID, SIZE))
    return torch.from_numpy(coords.apply(to_crop, coords.cells(GRID))) / (SIZE - 1) * 2 - 1


def equivariant(rows: np.ndarray, view: int) -> Tensor:
    """What a cell shows is where it is in the crop: random Fourier features, narrower than a cell."""
    rng = torch.Generator().manual_seed(0)
    phase = place(view) @ (torch.randn(2, 256, generator=rng) * 12)
    return (
        F.normalize(torch.cat([phase.sin(), phase.cos()], 1), dim=1)
        .T.reshape(-1, GRID, GRID)
        .expand(len(rows), -1, -1, -1)
    )


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_equivariant_descriptors_match_themselves() -> None:
    source = GridSource(frames(), equivariant, MIRRORED)
    for view in range(1, 4):
        assert checks.self_match(source, ROWS, view, rng()) == 1.0


def test_random_descriptors_do_not() -> None:
    def describe(rows: np.ndarray, view: int) -> Tensor:
        noise = torch.randn(len(rows), 64, GRID, GRID, generator=torch.Generator().manual_seed(view))
        return F.normalize(noise, dim=1)

    # by chance the best of 256 cells is within one cell of the truth for about 3 to 4 of them
    assert checks.self_match(GridSource(frames(), describe, MIRRORED), ROWS, 2, rng()) < 0.06


def test_descriptors_that_are_wrong_by_two_cells_do_not_match() -> None:
    def shifted(rows: np.ndarray, view: int) -> Tensor:
        maps = equivariant(rows, view)
        return maps.roll(2, dims=3) if view else maps

    assert checks.self_match(GridSource(frames(), shifted, MIRRORED), ROWS, 3, rng()) < 0.05


def test_only_what_is_in_the_roi_of_both_views_counts() -> None:
    """Cells outside the photograph are never tried, so spoiling them changes nothing."""
    inside = np.ones((IMAGES, SIZE, SIZE), bool)
    inside[:, :, : SIZE // 2] = False
    asked: list[np.ndarray] = []

    class Spy(GridSource):
        def to_image(self, rows: np.ndarray, xy: np.ndarray, view: int = 0) -> np.ndarray:
            if xy.shape[1] == checks.POINTS:
                asked.append(xy)
            return super().to_image(rows, xy, view)

    assert checks.self_match(Spy(frames(inside), equivariant, MIRRORED), ROWS, 2, rng()) == 1.0
    assert asked[0][..., 0].min() >= GRID / 2


def test_no_roi_at_all_is_no_match() -> None:
    source = GridSource(frames(np.zeros((IMAGES, SIZE, SIZE), bool)), equivariant, MIRRORED)
    assert checks.self_match(source, ROWS, 2, rng()) == 0.0


@pytest.mark.parametrize("angle", [0.3, 0.8, 1.2])
def test_flip_ratio_by_its_definition(angle: float) -> None:
    """Left and right parts are opposite; in the mirrored image all descriptors turn by `angle`.

    A point to itself: 1 - cos(angle). To its twin, which the mirrored image shows at the same cell: 1 + cos(angle).
    """

    def describe(rows: np.ndarray, view: int) -> Tensor:
        turn = torch.where(place(view)[:, 0] < 0, torch.pi, 0.0) + (angle if view == 1 else 0)
        maps = torch.stack([turn.cos(), turn.sin()]).reshape(2, GRID, GRID)
        return maps.expand(len(rows), -1, -1, -1)

    ratio = checks.flip_ratio(GridSource(frames(), describe, MIRRORED), ROWS, 1, rng())
    assert ratio == pytest.approx((1 + np.cos(angle)) / (1 - np.cos(angle)), rel=1e-3)


def test_measure_names_what_the_bank_allows() -> None:
    source = GridSource(frames(), equivariant, MIRRORED)
    figures = checks.measure(source, ROWS, rng())
    assert figures["self_match"] == 1.0
    assert figures["flip_ratio"] > 1e3
    single = Frames(
        frames().affine, frames().boxes, VIEWS[:1], lambda rows: np.ones((len(rows), SIZE, SIZE), bool), SIZE, GRID
    )
    assert checks.measure(GridSource(single, equivariant, MIRRORED[:1]), ROWS, rng()) == {}


def test_a_sample_is_spread_over_the_rows() -> None:
    assert len(checks.sample(np.arange(1000))) == checks.IMAGES
    assert checks.sample(np.arange(1000)).max() > 900
    np.testing.assert_array_equal(checks.sample(np.arange(5)), np.arange(5))


def test_colour_matches_smooth_pictures(crops32: Crops, photographs: tuple[Path, pd.DataFrame]) -> None:
    """The baseline reads the views as the network sees them: a mirrored crop gives mirrored colours."""
    boxes = photographs[1][["x1", "y1", "x2", "y2"]].to_numpy(float)
    where = Frames(crops32.affine, boxes, VIEWS, crops32.inside, SIZE, GRID)
    source = checks.colour(crops32, where, MIRRORED)
    plain, mirrored = source.describe(ROWS, 0), source.describe(ROWS, 1)
    assert plain.shape == (IMAGES, 9, GRID, GRID)
    torch.testing.assert_close(plain.norm(dim=1), torch.ones(IMAGES, GRID, GRID))
    raw = mirrored.flip(3) * torch.tensor([1.0] * 3 + [-1.0] * 3 + [1.0] * 3)[:, None, None]  # dx changes its sign
    torch.testing.assert_close(raw, plain, atol=1e-4, rtol=0)
    assert checks.self_match(source, ROWS, 3, rng()) > 0.5
