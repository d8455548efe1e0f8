"""The label-free gates on sources whose answers are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.geometry import coords
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops
from uld.models.base import Inputs, Maps, Model
from uld.sources import checks
from uld.sources.crop_views import CropViews
from uld.sources.source import Source
from uld.sources.views import View, Views

GRID, SIZE, IMAGES = 16, 32, 6
PLAIN, MIRROR = View(coords.view(SIZE), flipped=False), View(coords.view(SIZE, mirror=True), flipped=True)
TURN, LARGE = (View(coords.view(SIZE, **how), flipped=False) for how in ({"rotate": 15}, {"scale": 1.15}))
ROWS = np.arange(IMAGES)


def frames(inside: np.ndarray | None = None) -> Frames:
    """Boxes of different places and sizes in the photographs; crops with a margin of 10 %."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (IMAGES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 90, (IMAGES, 1))], 1)
    mask = np.ones((IMAGES, SIZE, SIZE), bool) if inside is None else inside
    return Frames(coords.crop(boxes, 0.1, SIZE), boxes, lambda rows: mask[rows], SIZE, GRID)


class Known(Model):
    """What it says of a view is given."""

    channels, grid, dims = 0, GRID, 0

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Known":
        return cls()

    def about(self) -> dict[str, Any]:
        return {}

    def forward(self, inputs: Inputs) -> Maps:
        assert isinstance(inputs, Tensor)
        return Maps(inputs)


class KnownViews(Views):
    """Descriptors (B, D, G, G) by rows and view, in place of images."""

    def __init__(
        self, describe: Callable[[np.ndarray, View], Tensor], place: Frames, *others: View, plain: View = PLAIN
    ) -> None:
        self._describe, self.frames, self.plain, self.evaluation = describe, place, plain, []
        self.flips = [plain, *(one for one in others if one.flipped)]
        self.turned = [one for one in others if not one.flipped]

    def inputs(self, rows: np.ndarray, view: View, names: list[str]) -> Inputs:
        assert not names
        return self._describe(rows, view)


def known(describe: Callable[[np.ndarray, View], Tensor], place: Frames | None = None) -> Source:
    return Source(Known(), KnownViews(describe, place or frames(), MIRROR, TURN, LARGE))


def place(view: View) -> Tensor:
    """(G*G, 2): where the cells of a view are in the crop, scaled to -1..1."""
    to_crop = coords.compose(coords.invert(view.affine), coords.resize(GRID, SIZE))
    return torch.from_numpy(coords.apply(to_crop, coords.cells(GRID))) / (SIZE - 1) * 2 - 1


def equivariant(rows: np.ndarray, view: View) -> Tensor:
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
    source = known(equivariant)
    for view in (MIRROR, TURN, LARGE):
        assert checks.self_match(source, ROWS, view, rng()) == 1.0


def test_random_descriptors_do_not() -> None:
    def describe(rows: np.ndarray, view: View) -> Tensor:
        rng = torch.Generator().manual_seed(1 + [PLAIN, MIRROR, TURN, LARGE].index(view))
        noise = torch.randn(len(rows), 64, GRID, GRID, generator=rng)
        return F.normalize(noise, dim=1)

    # by chance the best of 256 cells is within one cell of the truth for about 3 to 4 of them
    assert checks.self_match(known(describe), ROWS, TURN, rng()) < 0.06


def test_descriptors_that_are_wrong_by_two_cells_do_not_match() -> None:
    def shifted(rows: np.ndarray, view: View) -> Tensor:
        maps = equivariant(rows, view)
        return maps if view is PLAIN else maps.roll(2, dims=3)

    assert checks.self_match(known(shifted), ROWS, LARGE, rng()) < 0.05


def test_only_what_is_in_the_roi_of_both_views_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells outside the photograph are never tried, so spoiling them changes nothing."""
    inside = np.ones((IMAGES, SIZE, SIZE), bool)
    inside[:, :, : SIZE // 2] = False
    asked: list[np.ndarray] = []
    between = Frames.between

    def spy(self: Frames, first: np.ndarray, second: np.ndarray, xy: np.ndarray) -> np.ndarray:
        asked.append(xy)
        return between(self, first, second, xy)

    monkeypatch.setattr(Frames, "between", spy)
    assert checks.self_match(known(equivariant, frames(inside)), ROWS, TURN, rng()) == 1.0
    assert asked[0].shape == (IMAGES, checks.POINTS, 2) and asked[0][..., 0].min() >= GRID / 2


def test_no_roi_at_all_is_no_match() -> None:
    source = known(equivariant, frames(np.zeros((IMAGES, SIZE, SIZE), bool)))
    assert checks.self_match(source, ROWS, TURN, rng()) == 0.0


@pytest.mark.parametrize("angle", [0.3, 0.8, 1.2])
def test_flip_ratio_by_its_definition(angle: float) -> None:
    """Left and right parts are opposite; in the mirrored image all descriptors turn by `angle`.

    A point to itself: 1 - cos(angle). To its twin, which the mirrored image shows at the same cell: 1 + cos(angle).
    """

    def describe(rows: np.ndarray, view: View) -> Tensor:
        turn = torch.where(place(view)[:, 0] < 0, torch.pi, 0.0) + (angle if view is MIRROR else 0)
        maps = torch.stack([turn.cos(), turn.sin()]).reshape(2, GRID, GRID)
        return maps.expand(len(rows), -1, -1, -1)

    ratio = checks.flip_ratio(known(describe), ROWS, MIRROR, rng())
    assert ratio == pytest.approx((1 + np.cos(angle)) / (1 - np.cos(angle)), rel=1e-3)


def test_measure_names_what_the_views_allow() -> None:
    figures = checks.measure(known(equivariant), ROWS, rng())
    assert figures["self_match"] == 1.0
    assert figures["flip_ratio"] > 1e3
    assert checks.measure(Source(Known(), KnownViews(equivariant, frames())), ROWS, rng()) == {}


def test_a_sample_is_spread_over_the_rows() -> None:
    assert len(checks.sample(np.arange(1000))) == checks.IMAGES
    assert checks.sample(np.arange(1000)).max() > 900
    np.testing.assert_array_equal(checks.sample(np.arange(5)), np.arange(5))


def test_colour_matches_smooth_pictures(crops32: Crops, photographs: tuple[Path, pd.DataFrame]) -> None:
    """The baseline reads the views as the network sees them: a mirrored crop gives mirrored colours."""
    where = Frames(crops32.affine, corners(photographs[1]), crops32.inside, SIZE, GRID)
    source = checks.colour(crops32, CropViews(crops32, where, [PLAIN, MIRROR], [TURN, LARGE], []))
    plain, mirrored = source.describe(ROWS, PLAIN).cpu(), source.describe(ROWS, MIRROR).cpu()
    assert plain.shape == (IMAGES, 9, GRID, GRID)
    torch.testing.assert_close(plain.norm(dim=1), torch.ones(IMAGES, GRID, GRID))
    raw = mirrored.flip(3) * torch.tensor([1.0] * 3 + [-1.0] * 3 + [1.0] * 3)[:, None, None]  # dx changes its sign
    torch.testing.assert_close(raw, plain, atol=1e-4, rtol=0)
    assert checks.self_match(source, ROWS, LARGE, rng()) > 0.5
    assert checks.measure(source, ROWS, rng()).keys() == {"self_match", "flip_ratio"}
