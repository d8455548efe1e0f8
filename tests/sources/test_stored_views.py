"""The views of a feature store: which are what, batches of single views, and the cells that show the same place."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from uld.base import ranks
from uld.base.errors import ArtifactError, ULDError
from uld.diffusion import store
from uld.diffusion.store import FeatureStore
from uld.geometry import coords, sampling
from uld.geometry.frames import Frames
from uld.geometry.warps import Warp
from uld.sources.stored_views import StoredViews
from uld.sources.views import Ahead, Batch

GRID, SIZE = 8, 32
CELLS = np.arange(GRID * GRID)
Y, X = np.divmod(CELLS, GRID)
BOTH = ["l00_t5", "l10_t5"]


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


class Store:
    """A feature store that has nothing but views (mirror, rotate, scale); the last `warps` are the evaluation's."""

    path = "store.zarr"

    def __init__(self, *views: tuple[bool, float, float], warps: int = 0) -> None:
        self.views = np.stack([coords.view(SIZE, *view) for view in views])
        self.flipped, self.bank = np.array([view[0] for view in views]), len(views) - warps
        self.asked: list[tuple[int, int]] = []

    def views_of(self, rows: np.ndarray, views: np.ndarray, names: list[str]) -> dict[str, torch.Tensor]:
        self.asked += zip(rows.tolist(), views.tolist(), strict=True)
        return {name: torch.zeros(len(rows), 1, 1, 1) for name in names}


def frames(images: int = 1) -> Frames:
    boxes = np.tile([-99.0, -99, 99, 99], (images, 1))
    mask = np.ones((images, SIZE, SIZE), bool)
    return Frames(np.tile(np.eye(2, 3), (images, 1, 1)), boxes, lambda rows: mask[rows], SIZE, GRID)


def bank(*views: tuple[bool, float, float], warps: int = 0) -> StoredViews:
    return StoredViews(Store(*views, warps=warps), frames(), np.arange(1))  # type: ignore[arg-type]


def cell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Number of each cell, -1 where x or y is."""
    return np.where((x < 0) | (y < 0), -1, y * GRID + x)


def partner(views: StoredViews, a: int, b: int) -> np.ndarray:
    """(G * G,): the cells of view b that show what those of view a show."""
    assert isinstance(views.store, Store)
    warp = Warp.of(views.store.views[[a, b]], SIZE)
    rows = np.zeros(2, int)
    pair = Batch(rows, {}, warp, views.store.flipped[[a, b]], torch.ones(2, GRID, GRID, dtype=torch.bool))
    found = views.partner(pair)
    assert found.shape == (1, GRID * GRID)
    return found[0].numpy()


# --- which views are what ---


def test_views_by_what_they_are() -> None:
    turns = (False, 15, 1), (True, 0, 1.1), (True, 15, 1)
    views = bank((False, 0, 1), *turns, (True, 0, 1), (False, 0, 0.9), (True, 0, 1), (False, 10, 1), warps=1)
    stored: Any = views.store
    affines = [view.affine for view in (*views.flips, *views.turned, *views.evaluation)]
    np.testing.assert_array_equal(affines, stored.views[[0, 4, 1, 5, 7]])
    assert (len(views.flips), len(views.turned), len(views.evaluation)) == (2, 2, 1)
    assert views.plain is views.flips[0] and [view.flipped for view in views.flips] == [False, True]
    assert not any(view.flipped for view in [*views.turned, *views.evaluation])


def test_a_mirror_that_also_turns_is_no_flip() -> None:
    for other in ((True, 180, 1), (True, 5, 1), (True, 0, 1.1)):
        poor = bank((False, 0, 1), other)
        assert len(poor.flips) == 1 and poor.turned == []


def test_a_mirror_among_the_warps_is_no_flip() -> None:
    assert len(bank((False, 0, 1), (True, 0, 1), warps=1).flips) == 1


def test_the_mirror_of_a_view() -> None:
    store, plain, warp = Store((False, 0, 1), (True, 0, 1)), coords.view(SIZE), coords.view(SIZE, rotate=20, scale=1.1)
    others = np.stack([warp, *coords.mirrored(np.stack([plain, warp]), SIZE)])
    store.views = np.concatenate([store.views, others])
    store.flipped = np.append(store.flipped, [False, True, True])
    views = StoredViews(store, frames(), np.arange(1))  # type: ignore[arg-type]
    assert len(views.evaluation) == 1 and not views.evaluation[0].flipped
    for view, number in ((views.plain, 3), (views.evaluation[0], 4)):
        mirror = views.mirror(view)
        assert mirror.flipped and np.array_equal(mirror.affine, store.views[number])
        np.testing.assert_allclose(mirror.affine @ [3, 5, 1], [SIZE - 1, 0] + (view.affine @ [3, 5, 1]) * [-1, 1])
    with pytest.raises(
        ULDError, match=r"store.zarr has no mirror images of test images.*: set stores.\*.mirrored to true"
    ):
        bank((False, 0, 1), (True, 0, 1)).mirror(views.plain)


def test_inputs_are_what_the_store_holds(tex: Texture) -> None:
    views, rows = tex.views(GRID), np.array([5, 1])
    for number, view in enumerate([views.plain, views.flips[1], *views.turned]):
        found, want = views.inputs(rows, view, ["l10_t5"]), tex.store.read(rows, number, ["l10_t5"])
        assert isinstance(found, dict) and list(found) == ["l10_t5"] and torch.equal(found["l10_t5"], want["l10_t5"])
    for number, view in enumerate(views.evaluation, tex.store.bank):
        found = views.inputs(np.array([7]), view, BOTH)
        assert isinstance(found, dict)
        assert all(torch.equal(found[name], tex.store.read(np.array([7]), number)[name]) for name in BOTH)
    with pytest.raises(ArtifactError, match="does not hold image row 5 in view 6"):
        views.inputs(rows, views.evaluation[0], BOTH)


# --- partners ---


def test_a_view_is_its_own_partner() -> None:
    views = bank((False, 0, 1), (True, 33, 1.3))
    for view in (0, 1):
        np.testing.assert_array_equal(partner(views, view, view), CELLS)


def test_partners_in_a_mirror_and_a_quarter_turn() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (False, 90, 1))
    for a, b in ((0, 1), (1, 0)):
        np.testing.assert_array_equal(partner(views, a, b), cell(7 - X, Y))
    np.testing.assert_array_equal(partner(views, 0, 2), cell(7 - Y, X))  # x turns towards y
    np.testing.assert_array_equal(partner(views, 2, 0), cell(Y, 7 - X))
    np.testing.assert_array_equal(partner(views, 1, 2), cell(7 - Y, 7 - X))


def test_partners_in_an_enlarged_view() -> None:
    """At scale 1.5 cell x is found at 1.5 x - 1.75: cells 0 and 7 leave the view, cells 2 and 5 there are skipped."""
    views = bank((False, 0, 1), (False, 0, 1.5))
    there = np.array([-1, 0, 1, 3, 4, 6, 7, -1])
    back = np.array([1, 2, -1, 3, 4, -1, 5, 6])
    np.testing.assert_array_equal(partner(views, 0, 1), cell(there[X], there[Y]))
    np.testing.assert_array_equal(partner(views, 1, 0), cell(back[X], back[Y]))


def test_only_mutual_partners_count() -> None:
    """At scale 0.4 several cells fall into one, which goes back to the one of them that is nearest."""
    views = bank((False, 0, 1), (False, 0, 0.4))
    there = np.array([2, -1, 3, -1, -1, 4, -1, 5])  # 0.4 x + 2.1; cells 2, 3, 4, 5 go back to -0.25, 2.25, 4.75, 7.25
    found = partner(views, 0, 1)
    np.testing.assert_array_equal(found, cell(there[X], there[Y]))
    assert len(set(found[found >= 0])) == 16 == (partner(views, 1, 0) >= 0).sum()


def seen(view: tuple[bool, float, float], x: float, y: float) -> tuple[float, float]:
    """A cell of the untouched view in another one, by hand."""
    mirror, turn, scale = view
    middle, angle = (GRID - 1) / 2, math.radians(turn)
    dx, dy = (middle - x if mirror else x - middle), y - middle
    return (
        middle + scale * (dx * math.cos(angle) - dy * math.sin(angle)),
        middle + scale * (dx * math.sin(angle) + dy * math.cos(angle)),
    )


@pytest.mark.parametrize("view", [(False, 20, 0.9), (True, 25, 1.0), (False, 0, 1.15), (True, -40, 1.3)])
def test_partners_equal_a_plain_loop(view: tuple[bool, float, float]) -> None:
    views = bank((False, 0, 1), view)
    forward = {number: seen(view, X[number], Y[number]) for number in CELLS}
    at = np.array([forward[number] for number in CELLS])
    found, back = partner(views, 0, 1), partner(views, 1, 0)
    for number, (x, y) in forward.items():
        x, y = math.floor(x + 0.5), math.floor(y + 0.5)
        other = -1
        if 0 <= x < GRID and 0 <= y < GRID:
            # the way back, without a second transform: the centre that lies in a cell's own square, seen from there
            turn = np.linalg.solve(_linear(view), np.array([x, y]) - (GRID - 1) / 2) + (GRID - 1) / 2
            if (np.floor(turn + 0.5) == [X[number], Y[number]]).all():
                other = y * GRID + x
        assert found[number] == other
        if other >= 0:
            assert back[other] == number and np.abs(at[number] - [x, y]).max() <= 0.5
    assert (found >= 0).sum() == (back >= 0).sum() > 20


def _linear(view: tuple[bool, float, float]) -> np.ndarray:
    origin = np.array(seen(view, 0, 0))
    return np.stack([np.array(seen(view, 1, 0)) - origin, np.array(seen(view, 0, 1)) - origin], 1)


def nearest(place: Frames, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(G * G,): the cell of view b nearest to each of a, -1 outside."""
    x, y = np.floor(place.between(a, b, coords.cells(place.grid)) + 0.5).astype(np.int64).T
    there = (x >= 0) & (x < place.grid) & (y >= 0) & (y < place.grid)
    return np.where(there, y * place.grid + x, -1)


@pytest.mark.parametrize("grid", [8, 15, 16])
def test_partners_of_a_batch_equal_a_loop_over_its_pairs(tex: Texture, grid: int) -> None:
    """Two views at a time through `Frames`, in NumPy."""
    views, place = tex.views(grid), tex.frames(grid)
    batch = views.pairs(np.tile(tex.rows, 4), False, np.random.default_rng(0), ["l10_t5"])
    found = views.partner(batch).numpy()
    a, b = batch.warp.affine.numpy().reshape(2, -1, 2, 3)
    assert found.shape == (len(a), grid**2) and len({one.tobytes() for one in a}) > 3
    for pair, (one, other) in enumerate(zip(a, b, strict=True)):
        there, back = nearest(place, one, other), nearest(place, other, one)
        want = np.where((there >= 0) & (back[there] == np.arange(grid**2)), there, -1)
        np.testing.assert_array_equal(found[pair], want)


# --- which views are drawn ---


def drawn(views: StoredViews, same_flip: bool, count: int) -> list[tuple[int, ...]]:
    """The views of so many pairs."""
    stored: Any = views.store
    stored.asked.clear()
    batch = views.pairs(np.zeros(count, int), same_flip, np.random.default_rng(0), ["l00_t5"])
    assert len(batch.rows) == 2 * count and (batch.rows == 0).all()
    number = np.array([view for _, view in stored.asked])
    np.testing.assert_array_equal(batch.warp.affine, stored.views[number])
    np.testing.assert_array_equal(batch.flipped, stored.flipped[number])
    return list(zip(*number.reshape(2, -1).tolist(), strict=True))


def test_two_views_of_one_flip() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (True, 5, 1), (False, 5, 1), (True, 0, 2), (False, 1, 1), warps=1)
    found = drawn(views, True, 400)
    assert set(found) == {(0, 3), (3, 0), *((a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b)}
    assert 150 < sum(pair[0] in (0, 3) for pair in found) < 250  # each flip as often
    assert set(drawn(views, False, 1000)) == {(a, b) for a in range(5) for b in range(5) if a != b}


def test_a_flip_with_one_view_is_never_drawn() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (False, 5, 1))
    assert {tuple(sorted(pair)) for pair in drawn(views, True, 50)} == {(0, 2)}


def test_no_two_views() -> None:
    two = bank((False, 0, 1), (True, 0, 1))
    with pytest.raises(ULDError, match=r"needs two views of one flip: add rotations or scales to stores.\*.views"):
        drawn(two, True, 1)
    assert {tuple(sorted(pair)) for pair in drawn(two, False, 20)} == {(0, 1)}
    with pytest.raises(ULDError, match="two views"):
        drawn(bank((False, 0, 1), (False, 5, 1), warps=1), False, 1)  # the evaluation's warps are not for training


def test_single_views_of_the_flip_that_is_asked_for() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (True, 5, 1), (False, 5, 1), (False, 1, 1), warps=1)
    stored: Any = views.store
    flipped = np.arange(200) % 3 == 0
    batch = views.draw(np.zeros(200, int), flipped, np.random.default_rng(0), [])
    number = np.array([view for _, view in stored.asked])
    assert set(number[flipped]) == {1, 2} and set(number[~flipped]) == {0, 3}
    np.testing.assert_array_equal(batch.flipped, flipped)
    np.testing.assert_array_equal(batch.warp.flipped, flipped)


# --- batches ---


def feature(batch: Batch, name: str) -> torch.Tensor:
    assert isinstance(batch.inputs, dict)
    return batch.inputs[name]


def number_of(tex: Texture, affine: np.ndarray) -> int:
    """Which view of the store has this affine."""
    return next(n for n, view in enumerate(tex.store.views) if np.array_equal(view, affine))


def test_each_image_in_its_own_view(tex: Texture) -> None:
    """Batches equal the store's values, item by item."""
    views, place, rows = tex.views(16), tex.frames(16), np.array([5, 0, 5, 3, 5, 1, 2])
    batch = views.draw(rows, np.array([False, True] * 3 + [False]), np.random.default_rng(1), ["l10_t5"])
    found = feature(batch, "l10_t5")
    assert isinstance(batch.inputs, dict) and list(batch.inputs) == ["l10_t5"] and found.dtype == torch.float32
    numbers = [number_of(tex, affine) for affine in batch.warp.affine.numpy()]
    assert len(set(numbers)) > 3 and batch.warp.size == SIZE and batch.warp.bend is None
    for item, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        assert torch.equal(found[item], tex.store.read(np.array([row]), number)["l10_t5"][0])
        np.testing.assert_array_equal(batch.inside[item], place.inside(np.array([row]), tex.store.views[number])[0])
        assert batch.flipped[item] == tex.store.flipped[number]
    np.testing.assert_array_equal(batch.rows, rows)
    assert not torch.equal(batch.inside[0], batch.inside[1])


def test_points_in_the_cells_of_each_view_equal_a_plain_loop(tex: Texture) -> None:
    boxes = np.random.default_rng(3).uniform([0, 0, 30, 25], [9, 9, 45, 40], (8, 4))  # each image has its own
    place = Frames(coords.crop(boxes, 0.1, SIZE), boxes, tex.crops.inside, SIZE, 16)
    views, rows = StoredViews(tex.store, place, tex.rows), np.array([4, 0, 4, 2])
    batch = views.draw(rows, np.array([True, False, False, True]), np.random.default_rng(0), ["l10_t5"])
    xy = np.random.default_rng(0).uniform(5, 30, (4, 7, 2)).astype(np.float32)
    xy[1, 2] = np.nan
    cells = views.to_cells(batch, xy)
    assert cells.dtype == torch.float32
    for item, (row, affine) in enumerate(zip(rows, batch.warp.affine.numpy(), strict=True)):
        want = place.to_cells(np.array([row]), xy[[item]], affine)[0]
        np.testing.assert_allclose(cells[item], want, atol=1e-5)
        back = place.to_image(np.array([row]), cells[[item]].numpy(), affine)[0]
        np.testing.assert_allclose(back, xy[item], atol=1e-4)
    assert np.isnan(cells).sum() == 2 and (cells[0] - cells[2]).abs().max() > 1


def test_a_process_takes_its_share(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the model reads; all know all warps and masks."""
    whole = tex.views(GRID).pairs(tex.rows, True, np.random.default_rng(0), BOTH)
    own = np.array([1, 5, 11, 11])
    monkeypatch.setattr(ranks, "share", lambda count: own)
    part = tex.views(GRID).pairs(tex.rows, True, np.random.default_rng(0), BOTH)
    assert all(torch.equal(feature(part, name), feature(whole, name)[own]) for name in BOTH)
    assert torch.equal(part.warp.affine, whole.warp.affine) and torch.equal(part.inside, whole.inside)


def test_masks_are_read_once(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    place, asked = tex.frames(12), []
    views = StoredViews(tex.store, place, tex.rows)
    inside = place.inside

    def spy(rows: np.ndarray, view: np.ndarray) -> np.ndarray:
        asked.append((int(rows[0]), number_of(tex, view)))
        return inside(rows, view)

    monkeypatch.setattr(place, "inside", spy)
    for _ in range(2):
        rows = np.array([3, 0, 3, 3, 3])
        batch = views.draw(rows, np.array([False, True, False, False, False]), np.random.default_rng(0), ["l10_t5"])
        for item, affine in enumerate(batch.warp.affine.numpy()):
            np.testing.assert_array_equal(batch.inside[item], inside(rows[[item]], affine)[0])
    assert len(asked) == len(set(asked)) < 5 and not batch.inside.all() and batch.inside.any()


@pytest.mark.parametrize("workers", ["1", "3"])
def test_batches_read_ahead(tex: Texture, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """Batches with partners out of several threads at once are those of one."""
    monkeypatch.setenv("ULD_WORKERS", workers)

    def read(views: StoredViews, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(number)
        batch = views.pairs(rng.integers(0, 6, 2), False, rng, ["l00_t5"])
        return feature(batch, "l00_t5"), views.partner(batch)

    shared = tex.views(16)
    batches = Ahead(lambda number: read(shared, number), 12)
    for number in range(12):
        for got, want in zip(batches(number), read(tex.views(16), number), strict=True):
            assert torch.equal(got, want)


# --- the store ---


def test_the_store_reads_the_maps_that_are_wanted(tex: Texture) -> None:
    opened, rows = FeatureStore(tex.store.path), np.array([5, 1, 2])
    whole = opened.read(rows, 3)
    assert list(whole) == BOTH
    for names in (["l10_t5"], ["l10_t5", "l00_t5"], []):
        part = opened.read(rows, 3, names)
        assert list(part) == names and all(torch.equal(part[name], whole[name]) for name in names)
    mixed = opened.views_of(rows, np.array([3, 0, 3]), ["l00_t5"])["l00_t5"]
    assert torch.equal(mixed[[0, 2]], whole["l00_t5"][[0, 2]])
    assert torch.equal(mixed[1], opened.read(rows, 0)["l00_t5"][1]) and not torch.equal(mixed[1], whole["l00_t5"][1])


def test_few_maps_are_open_at_a_time(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another thread may close them all at any moment."""
    monkeypatch.setattr(store, "OPEN_MAPS", 1)
    rows, views = np.array([5, 1, 2]), np.array([3, 0, 3])
    opened = FeatureStore(tex.store.path)
    for _ in range(2):
        found = opened.views_of(rows, views, opened.names)
        assert all(torch.equal(found[name], tex.store.views_of(rows, views, [name])[name]) for name in opened.names)
        assert len(opened._maps) == 1

    class Closed(dict[tuple[str, int], np.ndarray]):
        def __setitem__(self, key: tuple[str, int], value: np.ndarray) -> None:
            self.clear()

    opened._maps = Closed()
    again = opened.views_of(rows, views, opened.names)
    assert all(torch.equal(found[name], again[name]) for name in opened.names)


def test_the_texture_is_what_it_says(tex: Texture) -> None:
    """The dots of the photographs are where the frames put them, in every view: what other tests build on."""
    place = tex.frames(SIZE)  # a cell a pixel
    for number, view in enumerate(tex.store.views):
        for row in range(8):
            at = torch.from_numpy(place.to_cells(np.array([row]), tex.dots[[row]], view))
            shown = sampling.sample(tex.view(row, number).mean(0)[None, None], at)[0, :, 0]
            assert (shown[((at[0] > 0) & (at[0] < SIZE - 1)).all(1)] > 0.8).all()
