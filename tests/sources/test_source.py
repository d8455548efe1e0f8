"""Where cells lie in photographs, there and back, and the maps of a model over a store."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from uld.base.errors import ULDError
from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.models.aggregator import Aggregator
from uld.models.frozen import FrozenHead
from uld.models.heads import LearnedHead
from uld.models.pose import PoseVAE
from uld.sources.source import from_store

SIZE, GRID, IMAGES = 32, 8, 4
VIEWS = np.stack(
    [coords.view(SIZE), coords.view(SIZE, True), coords.view(SIZE, False, 90), coords.view(SIZE, True, -25, 1.2)]
)
RNG = np.random.default_rng(1)
# crops of 2 to 4 pixels of the photograph a pixel
AFFINE = np.concatenate(
    [np.eye(2) / RNG.uniform(2, 4, (IMAGES, 1, 1)), RNG.uniform(-9, 9, (IMAGES, 2, 1))], axis=2
)  # fmt: skip


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


@pytest.fixture
def place() -> Frames:
    boxes = np.tile([-1e3, -1e3, 1e3, 1e3], (IMAGES, 1))
    return Frames(AFFINE, boxes, VIEWS, lambda rows: np.ones((len(rows), SIZE, SIZE), bool), SIZE, GRID)


@pytest.mark.parametrize("view", range(4))
def test_cells_to_image_and_back(place: Frames, view: int) -> None:
    rows = np.array([3, 0, 3])
    cells = np.random.default_rng(0).uniform(-4, 12, (3, 9, 2)).astype(np.float32)
    back = place.to_cells(rows, place.to_image(rows, cells, view), view)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, cells, atol=1e-4)
    xy = np.random.default_rng(1).uniform(-50, 200, (3, 9, 2)).astype(np.float32)
    np.testing.assert_allclose(place.to_image(rows, place.to_cells(rows, xy, view), view), xy, atol=1e-3)


def test_cells_by_hand() -> None:
    """A crop of half size, moved; four pixels a cell. Pixel (20, 30) is (13, 22) in the crop."""
    affine = np.array([[[0.5, 0, 3], [0, 0.5, 7]]])
    place = Frames(affine, np.array([[-99.0, -99, 999, 999]]), VIEWS, lambda rows: np.ones((1, 32, 32), bool), 32, 8)
    xy, row = np.array([[[20.0, 30.0]]], np.float32), np.array([0])
    np.testing.assert_allclose(place.crop_to_image(row, np.array([[[13.0, 22.0]]], np.float32)), xy)
    wanted = {0: (2.875, 5.125), 1: (4.125, 5.125), 2: (1.875, 2.875)}  # (13 + .5) / 4 - .5; 7 - x; (7 - y, x)
    for view, cell in wanted.items():
        np.testing.assert_allclose(place.to_cells(row, xy, view)[0, 0], cell, atol=1e-5)
        np.testing.assert_allclose(place.to_image(row, np.array([[cell]], np.float32), view), xy, atol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 2), (3, 0), (2, 3), (3, 3)])
def test_between_two_views_of_an_image(place: Frames, a: int, b: int) -> None:
    cells = np.random.default_rng(0).uniform(-1, 8, (20, 2)).astype(np.float32)
    for row in range(IMAGES):  # whatever the image
        at = np.array([row])
        long_way = place.to_cells(at, place.to_image(at, cells[None], a), b)[0]
        np.testing.assert_allclose(place.between(a, b, cells), long_way, atol=1e-4)


# --- models over a store ---


def heads() -> tuple[FrozenHead, LearnedHead]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = FrozenHead(["l00_t5"], [8], 5, GRID, "image")
        base.projection.copy_(torch.randn(5, 8))
        return base, LearnedHead(base, Aggregator(["l10_t5"], [6], 4, 8, 4, GRID), 8, "linear", 2).eval()


def test_maps_of_a_model_with_a_detector(tex: Texture) -> None:
    _, head = heads()
    source = from_store(tex.store, head, tex.crops, tex.boxes)
    assert source.detects and source.grid == GRID
    np.testing.assert_array_equal(source.views, tex.store.views[:6])
    np.testing.assert_array_equal(source.mirrored, tex.store.flipped[:6])
    assert source.warps == range(6, 8)
    for rows, view in (([6, 1], 0), ([5, 1], 4), ([6, 7], 7)):
        rows = np.array(rows)
        descriptors, heat = source.maps(rows, view)
        want, logits = head.maps(tex.store.read(rows, view))
        assert torch.equal(descriptors, want) and torch.equal(source.describe(rows, view), want)
        torch.testing.assert_close(heat, 1 / (1 + torch.exp(-logits)))
        assert heat.shape == (2, 2, GRID, GRID) and not heat.requires_grad and not descriptors.requires_grad
        place = tex.frames(GRID)
        cells = np.full((2, 1, 2), 2.5, np.float32)
        at = source.to_image(rows, cells, view)
        np.testing.assert_array_equal(at, place.to_image(rows, cells, view))
        np.testing.assert_allclose(source.to_cells(rows, at, view), cells, atol=1e-4)
        np.testing.assert_array_equal(source.inside(rows, view), place.inside(rows, view))


def test_a_model_without_a_detector(tex: Texture) -> None:
    base, _ = heads()
    source = from_store(tex.store, base, tex.crops, tex.boxes)
    rows = np.array([0, 5])
    assert not source.detects
    assert torch.equal(source.describe(rows, 3), base(tex.store.read(rows, 3)))
    with pytest.raises(ULDError, match="this model has no detector: begin at a start with head: learned, or"):
        source.maps(rows)


def test_codes_of_a_model_with_a_pose_part(tex: Texture) -> None:
    """The mean code of the higher one of its two heat maps, cell by cell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        pose = PoseVAE(GRID, 3, (4, 8), 2, "points")
    head = heads()[1].with_pose(pose.without_decoder()).eval()
    source = from_store(tex.store, head, tex.crops, tex.boxes)
    assert source.poses and source.detects
    rows = np.array([5, 1])
    for view in (0, 4):
        heat = source.maps(rows, view)[1]
        codes = source.codes(heat)
        assert 0 < (heat[:, 0] > heat[:, 1]).float().mean() < 1
        want, _ = pose.encode(torch.maximum(heat[:, :1], heat[:, 1:]))
        assert codes.shape == (2, 3) and torch.equal(codes, want) and not codes.requires_grad
        assert (codes[0] - codes[1]).abs().max() > 1e-4


def test_models_without_a_pose_part(tex: Texture) -> None:
    for head in heads():
        source = from_store(tex.store, head, tex.crops, tex.boxes)
        assert not source.poses
        with pytest.raises(ULDError, match="this model has no pose part: begin at a round whose step trains one"):
            source.codes(torch.zeros(1, 1, GRID, GRID))


def test_only_what_the_model_reads_is_read(tex: Texture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    views_of = type(tex.store).views_of

    def spy(store: Any, rows: Any, views: Any, names: list[str]) -> Any:
        asked.append(names)
        return views_of(store, rows, views, names)

    monkeypatch.setattr(type(tex.store), "views_of", spy)
    for head in heads():
        from_store(tex.store, head, tex.crops, tex.boxes).describe(np.arange(2))
    assert asked == [["l00_t5"], ["l00_t5", "l10_t5"]]
