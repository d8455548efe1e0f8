"""Pixel views: pairs that depend on their generator alone, points that land where the pixels do, and the masks."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from uld.base import params, ranks
from uld.base.errors import ParamsError
from uld.geometry import coords, warps
from uld.geometry.frames import Frames
from uld.geometry.warps import Warp
from uld.sources.augmentation import PixelViewParams, WarpParams
from uld.sources.pixel_views import PixelViews
from uld.sources.views import Batch

SIZE, GRID, COUNT = 32, 16, 9
ROWS = np.array([1, 2, 4, 5, 7, 8])
STILL: dict[str, Any] = {"mirror": True, "rotate": 0, "scale": 0, "shift": 0, "bend": {"displacement": 0, "grid": 4}}
MOVING: dict[str, Any] = {
    "mirror": True,
    "rotate": 30,
    "scale": 0.2,
    "shift": 0.1,
    "bend": {"displacement": 0.04, "grid": 4},
}
DARK: dict[str, Any] = {
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
    "gamma": 0,
    "blur": {"sigma": 0, "probability": 0},
    "noise": 0,
    "cutout": {"side": 0, "probability": 0},
}
LIT = DARK | {"brightness": 0.3, "hue": 0.1, "blur": {"sigma": 1, "probability": 0.5}, "noise": 0.05}
BOXES = np.random.default_rng(5).uniform([3, 5, 30, 25], [9, 9, 45, 60], (COUNT, 4))
AFFINE = coords.crop(BOXES, 0.2, SIZE)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


def masks() -> np.ndarray:
    """The photograph ends somewhere in each crop."""
    end = np.random.default_rng(1).integers(SIZE // 2, SIZE, (COUNT, 2, 1))
    seen = np.arange(SIZE) < end
    return seen[:, 0, None, :] & seen[:, 1, :, None]


def frames() -> Frames:
    return Frames(AFFINE, BOXES, lambda rows: masks()[rows], SIZE, GRID)


def views(warp: dict[str, Any] = MOVING, light: dict[str, Any] = DARK, shown: Any = None, **others: Any) -> PixelViews:
    crops = pixels() if shown is None else shown
    how = params.build(PixelViewParams, {"warp": warp, "light": light}, "views")
    evaluation = others.pop("evaluation", np.empty((0, 2, 3)))
    return PixelViews(lambda rows: crops[rows], lambda rows: masks()[rows], frames(), ROWS, how, evaluation, **others)


def pixels_of(batch: Batch) -> torch.Tensor:
    assert isinstance(batch.inputs, torch.Tensor)
    return batch.inputs


def same(one: Batch, other: Batch) -> None:
    assert torch.equal(pixels_of(one), pixels_of(other)) and torch.equal(one.inside, other.inside)
    assert torch.equal(one.warp.affine, other.warp.affine) and (one.flipped == other.flipped).all()
    assert (one.rows == other.rows).all()
    assert (one.warp.bend is None) == (other.warp.bend is None)
    if one.warp.bend is not None and other.warp.bend is not None:
        assert torch.equal(one.warp.bend, other.warp.bend)


# --- what is drawn ---


def test_the_crop_itself() -> None:
    rows = np.array([4, 1, 4])
    batch = views(STILL).draw(rows, np.array([False, True, False]), np.random.default_rng(0), [])
    want = torch.from_numpy(pixels()[rows]).permute(0, 3, 1, 2) / 255
    want[1] = want[1].flip(2)
    assert torch.equal(pixels_of(batch), want) and batch.warp.bend is None
    assert batch.warp.flipped.tolist() == [False, True, False] == batch.flipped.tolist()
    assert pixels_of(batch).shape == (3, 3, SIZE, SIZE) and batch.inside.shape == (3, GRID, GRID)


def test_pairs_are_two_views_of_one_image() -> None:
    source, rows = views(), np.array([7, 1, 5, 5])
    flips = []
    for seed in range(20):
        batch = source.pairs(rows, True, np.random.default_rng(seed), [])
        assert (batch.rows == np.tile(rows, 2)).all() and (batch.flipped[:4] == batch.flipped[4:]).all()
        assert batch.warp.flipped.tolist() == batch.flipped.tolist()
        assert not torch.equal(batch.warp.affine[:4], batch.warp.affine[4:])
        flips += batch.flipped[:4].tolist()
        free = source.pairs(rows, False, np.random.default_rng(seed), []).flipped
        flips += (free[:4] != free[4:]).tolist()
    assert 50 < sum(flips) < 110 and len(flips) == 160


def test_mirror_images_may_be_left_out() -> None:
    source, both = views(MOVING | {"mirror": False}), views()
    assert source.flips == [source.plain] and [view.flipped for view in both.flips] == [False, True]
    for seed, same_flip in ((0, True), (1, False)):
        batch = source.pairs(ROWS, same_flip, np.random.default_rng(seed), [])
        assert not batch.flipped.any() and not batch.warp.flipped.any()
        mirrored = both.pairs(ROWS, same_flip, np.random.default_rng(seed), [])
        plain = ~mirrored.flipped  # what is not mirrored is warped as with them
        assert plain.any() and torch.equal(batch.warp.affine[plain], mirrored.warp.affine[plain])


def test_how_far_views_move() -> None:
    source = views(MOVING | {"bend": {"displacement": 0.0, "grid": 2}})
    rows = np.repeat(ROWS, 200)
    affine = source.draw(rows, np.zeros(len(rows), bool), np.random.default_rng(0), []).warp.affine.numpy()
    turn = np.rad2deg(np.arctan2(affine[:, 1, 0], affine[:, 0, 0]))
    scale = np.hypot(affine[:, 0, 0], affine[:, 1, 0])
    centre = coords.apply(affine, np.full((len(rows), 1, 2), (SIZE - 1) / 2))[:, 0] - (SIZE - 1) / 2
    for values, low, high in ((turn, -30, 30), (scale, 0.8, 1.2), (centre, -3.2, 3.2)):
        span = high - low
        assert low - 1e-5 <= values.min() < low + 0.05 * span and high - 0.05 * span < values.max() <= high + 1e-5


def test_displacements() -> None:
    bend = views().draw(np.repeat(ROWS, 50), np.zeros(300, bool), np.random.default_rng(0), []).warp.bend
    assert bend is not None and bend.shape == (300, 16, 2) and 1.2 < bend.abs().max() <= 0.04 * SIZE
    folding = MOVING | {"bend": {"displacement": 0.5, "grid": 4}}
    batch = views(folding).draw(ROWS, np.zeros(6, bool), np.random.default_rng(0), [])
    xy = torch.from_numpy(coords.cells(SIZE)).expand(6, -1, 2)
    torch.testing.assert_close(batch.warp.to_view(batch.warp.to_crop(xy)), xy.double(), rtol=0, atol=1e-4)


# --- the generator alone decides ---


@pytest.mark.parametrize("same_flip", [False, True])
def test_the_same_batch_with_any_number_of_threads(same_flip: bool) -> None:
    def read(source: PixelViews, number: int) -> Batch:
        rng = np.random.default_rng(number)
        return source.pairs(rng.choice(ROWS, 4), same_flip, rng, [])

    shared = views(light=LIT)
    want = [read(views(light=LIT), number) for number in range(8)]
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            for one, other in zip(pool.map(lambda number: read(shared, number), range(8)), want, strict=True):
                same(one, other)
    assert not torch.equal(pixels_of(want[0]), pixels_of(want[1]))


def test_threads_of_torch_round_alike() -> None:
    found = []
    threads = torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(views(light=LIT).pairs(ROWS, True, np.random.default_rng(0), []))
    torch.set_num_threads(threads)
    torch.testing.assert_close(pixels_of(found[0]), pixels_of(found[1]), rtol=0, atol=1e-6)
    assert torch.equal(found[0].inside, found[1].inside)


def test_a_process_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = views(light=LIT).pairs(ROWS, True, np.random.default_rng(0), [])
    own = np.array([1, 5, 11, 11])
    monkeypatch.setattr(ranks, "share", lambda count: own)
    part = views(light=LIT).pairs(ROWS, True, np.random.default_rng(0), [])
    torch.testing.assert_close(pixels_of(part), pixels_of(whole)[own], rtol=0, atol=1e-5)
    assert torch.equal(part.warp.affine, whole.warp.affine) and torch.equal(part.inside, whole.inside)


def test_crops_are_read_once_if_they_fit() -> None:
    class Spy:
        def __init__(self) -> None:
            self.asked: list[list[int]] = []

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.asked.append(rows.tolist())
            return pixels()[rows]

    def read(held: int) -> tuple[Batch, list[list[int]]]:
        spy = Spy()
        source = views(light=LIT, shown=spy, held=held)
        return source.pairs(np.array([8, 2]), True, np.random.default_rng(0), []), spy.asked

    most = 4 * len(ROWS) * SIZE**2
    (one, first), (other, second) = read(most), read(most - 1)
    same(one, other)
    assert first == [ROWS.tolist()] and second == [[2, 8]]


# --- where things are ---


def test_points_go_through_the_exact_warp() -> None:
    source = views()
    batch = source.pairs(ROWS, False, np.random.default_rng(0), [])
    xy = np.random.default_rng(1).uniform(5, 40, (12, 7, 2)).astype(np.float32)
    xy[3, 2] = np.nan
    found = source.to_cells(batch, xy)
    assert found.dtype == torch.float32
    # and back, step by step
    view = torch.from_numpy(coords.apply(coords.resize(GRID, SIZE), found.numpy()))
    crop = batch.warp.to_crop(view).numpy()
    back = coords.apply(coords.invert(AFFINE[batch.rows]), crop)
    np.testing.assert_allclose(back, xy, atol=1e-3)
    assert np.isnan(found[3, 2]).all() and np.isnan(found).sum() == 2


def test_pixels_go_where_points_do() -> None:
    """A white disc around a point of each image is found at the point's cell, in every view."""
    at = np.random.default_rng(2).uniform(11, 20, (COUNT, 1, 2))
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = (x - at[..., :1]) ** 2 + (y - at[..., 1:]) ** 2
    discs = (255 * np.exp(-distance / 4.5))[..., None].repeat(3, -1).round().astype(np.uint8)
    source = views(shown=discs)
    batch = source.pairs(ROWS, False, np.random.default_rng(0), [])
    image = coords.apply(coords.invert(AFFINE), at)[batch.rows]
    want = coords.apply(coords.resize(GRID, SIZE), source.to_cells(batch, image).numpy())[:, 0]
    shown = pixels_of(batch)[:, 0].numpy()
    mass = shown.sum((1, 2))
    centre = np.stack([(shown * x).sum((1, 2)) / mass, (shown * y).sum((1, 2)) / mass], 1)
    assert np.linalg.norm(centre - want, axis=1).max() < 0.3


def test_partners() -> None:
    source = views()
    batch = source.pairs(ROWS, False, np.random.default_rng(0), [])
    found = source.partner(batch)
    first, second = batch.warp.take(slice(6)), batch.warp.take(slice(6, 12))
    assert torch.equal(found, warps.partner(first, second, GRID)) and found.shape == (6, GRID**2)
    assert (found >= 0).float().mean() > 0.4


def inside(row: int, warp: Warp) -> np.ndarray:
    """One view's mask, cell by cell, as `Frames.inside` has it."""
    out = np.zeros((GRID, GRID), bool)
    low, high = BOXES[row, :2], BOXES[row, 2:]
    for x, y in np.ndindex(GRID, GRID):
        view = coords.apply(coords.resize(GRID, SIZE), np.array([[x, y]]))
        crop = warp.to_crop(torch.from_numpy(view)[None])[0].numpy().astype(np.float32)
        column, line = np.rint(crop[0]).astype(int)
        image = coords.apply(coords.invert(AFFINE[row]), crop)[0]
        if 0 <= column < SIZE and 0 <= line < SIZE and masks()[row, line, column]:
            out[y, x] = (image >= low).all() and (image <= high).all()
    return out


@pytest.mark.parametrize("warp", [STILL, MOVING])
def test_inside_is_a_plain_loop(warp: dict[str, Any]) -> None:
    batch = views(warp).pairs(ROWS, False, np.random.default_rng(0), [])
    for item, row in enumerate(batch.rows):
        np.testing.assert_array_equal(batch.inside[item], inside(int(row), batch.warp.take(slice(item, item + 1))))
    assert 0.2 < batch.inside.float().mean() < 0.8


@pytest.mark.parametrize("values", [{"rotate": 181}, {"scale": 1}, {"bend": {"displacement": 0.1}}, {"flip": 0.5}])
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="warp"):
        params.build(WarpParams, MOVING | values, "warp")


# --- fixed views ---


def test_the_fixed_views() -> None:
    """The crop and its mirror image; half of the largest turn and scale, either way; the evaluation's warps."""
    given = np.stack([coords.view(SIZE, rotate=7), coords.view(SIZE, scale=0.9)])
    source = views(evaluation=given)
    assert source.plain is source.flips[0] and [view.flipped for view in source.flips] == [False, True]
    np.testing.assert_array_equal(source.plain.affine, np.eye(2, 3))
    np.testing.assert_array_equal(source.flips[1].affine, [[-1, 0, SIZE - 1], [0, 1, 0]])
    want = [coords.view(SIZE, rotate=15), coords.view(SIZE, rotate=-15)]
    want += [coords.view(SIZE, scale=1.1), coords.view(SIZE, scale=0.9)]
    np.testing.assert_allclose([view.affine for view in source.turned], want)
    np.testing.assert_array_equal([view.affine for view in source.evaluation], given)
    assert not any(view.flipped for view in [*source.turned, *source.evaluation])
    assert views(STILL).turned == [] == views(STILL).evaluation


def test_any_image_in_a_fixed_view() -> None:
    """Test images too, which no step draws; at the same place as a drawn view of the same warp."""
    source, rows = views(), np.array([0, 6, 4])
    assert not np.isin(rows[:2], ROWS).any()
    crops = torch.from_numpy(pixels()[rows]).permute(0, 3, 1, 2) / 255
    plain, mirror = (source.inputs(rows, view, []) for view in source.flips)
    assert isinstance(plain, torch.Tensor) and isinstance(mirror, torch.Tensor)
    torch.testing.assert_close(plain, crops)
    torch.testing.assert_close(mirror, crops.flip(3))
    for view in source.turned:
        found = source.inputs(rows, view, [])
        warp = Warp.of(np.tile(view.affine, (3, 1, 1)), SIZE)
        torch.testing.assert_close(found, warp.resample(crops), rtol=0, atol=1e-4)
        drawn = Warp.of(np.tile(view.affine, (6, 1, 1)), SIZE)
        np.testing.assert_array_equal(source._seen(ROWS, drawn), source.frames.inside(ROWS, view.affine))
