"""The view bank: which cells show the same place, batches of single views, and reading ahead."""

import math
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from uld.base.errors import ULDError
from uld.diffusion import store
from uld.diffusion.store import FeatureStore
from uld.geometry import coords
from uld.geometry.frames import Frames
from uld.sources.views import Ahead, Bank

GRID, SIZE = 8, 32
CELLS = np.arange(GRID * GRID)
Y, X = np.divmod(CELLS, GRID)


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


class Views:
    """A feature store that has nothing but views (mirror, rotate, scale)."""

    def __init__(self, *views: tuple[bool, float, float]) -> None:
        self.views = np.stack([coords.view(SIZE, *view) for view in views])
        self.flipped, self.bank = np.array([view[0] for view in views]), len(views)


def bank(*views: tuple[bool, float, float], grid: int = GRID) -> Bank:
    store = Views(*views)
    boxes = np.array([[-99.0, -99, 99, 99]])
    place = Frames(np.eye(2, 3)[None], boxes, store.views, lambda rows: np.ones((1, SIZE, SIZE), bool), SIZE, grid)
    return Bank(store, place, np.arange(1), [])  # type: ignore[arg-type]


def cell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Number of each cell, -1 where x or y is."""
    return np.where((x < 0) | (y < 0), -1, y * GRID + x)


# --- partners ---


def test_a_view_is_its_own_partner() -> None:
    views = bank((False, 0, 1), (True, 33, 1.3))
    for view in (0, 1):
        np.testing.assert_array_equal(views.partner(view, view), CELLS)


def test_partners_in_a_mirror_and_a_quarter_turn() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (False, 90, 1))
    for a, b in ((0, 1), (1, 0)):
        np.testing.assert_array_equal(views.partner(a, b), cell(7 - X, Y))
    np.testing.assert_array_equal(views.partner(0, 2), cell(7 - Y, X))  # x turns towards y
    np.testing.assert_array_equal(views.partner(2, 0), cell(Y, 7 - X))
    np.testing.assert_array_equal(views.partner(1, 2), cell(7 - Y, 7 - X))


def test_partners_in_an_enlarged_view() -> None:
    """At scale 1.5 cell x is found at 1.5 x - 1.75: cells 0 and 7 leave the view, cells 2 and 5 there are skipped."""
    views = bank((False, 0, 1), (False, 0, 1.5))
    there = np.array([-1, 0, 1, 3, 4, 6, 7, -1])
    back = np.array([1, 2, -1, 3, 4, -1, 5, 6])
    np.testing.assert_array_equal(views.partner(0, 1), cell(there[X], there[Y]))
    np.testing.assert_array_equal(views.partner(1, 0), cell(back[X], back[Y]))


def test_only_mutual_partners_count() -> None:
    """At scale 0.4 several cells fall into one, which goes back to the one of them that is nearest."""
    views = bank((False, 0, 1), (False, 0, 0.4))
    there = np.array([2, -1, 3, -1, -1, 4, -1, 5])  # 0.4 x + 2.1; cells 2, 3, 4, 5 go back to -0.25, 2.25, 4.75, 7.25
    found = views.partner(0, 1)
    np.testing.assert_array_equal(found, cell(there[X], there[Y]))
    assert len(set(found[found >= 0])) == 16 == (views.partner(1, 0) >= 0).sum()


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
    found, back = views.partner(0, 1), views.partner(1, 0)
    for number, (x, y) in forward.items():
        x, y = math.floor(x + 0.5), math.floor(y + 0.5)
        partner = -1
        if 0 <= x < GRID and 0 <= y < GRID:
            # the way back, without a second transform: the centre that lies in a cell's own square, seen from there
            turn = np.linalg.solve(_linear(view), np.array([x, y]) - (GRID - 1) / 2) + (GRID - 1) / 2
            if (np.floor(turn + 0.5) == [X[number], Y[number]]).all():
                partner = y * GRID + x
        assert found[number] == partner
        if partner >= 0:
            assert back[partner] == number and np.abs(at[number] - [x, y]).max() <= 0.5
    assert (found >= 0).sum() == (back >= 0).sum() > 20


def _linear(view: tuple[bool, float, float]) -> np.ndarray:
    origin = np.array(seen(view, 0, 0))
    return np.stack([np.array(seen(view, 1, 0)) - origin, np.array(seen(view, 0, 1)) - origin], 1)


# --- two views ---


def test_two_views_of_one_hand() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (True, 5, 1), (False, 5, 1), (True, 0, 2))
    rng = np.random.default_rng(0)
    drawn = [tuple(views.two(rng)) for _ in range(400)]
    assert set(drawn) == {(0, 3), (3, 0), *((a, b) for a in (1, 2, 4) for b in (1, 2, 4) if a != b)}
    assert 150 < sum(pair[0] in (0, 3) for pair in drawn) < 250  # each hand as often
    any_hand = {tuple(views.two(rng, one_hand=False)) for _ in range(1000)}
    assert any_hand == {(a, b) for a in range(5) for b in range(5) if a != b}


def test_a_hand_with_one_view_is_never_drawn() -> None:
    views = bank((False, 0, 1), (True, 0, 1), (False, 5, 1))
    rng = np.random.default_rng(0)
    assert {tuple(sorted(views.two(rng))) for _ in range(50)} == {(0, 2)}


def test_no_two_views() -> None:
    rng = np.random.default_rng(0)
    two = bank((False, 0, 1), (True, 0, 1))
    with pytest.raises(ULDError, match=r"needs two views of one hand: add rotations or scales to networks.\*.views"):
        two.two(rng)
    assert sorted(two.two(rng, one_hand=False)) == [0, 1]
    with pytest.raises(ULDError, match="two views"):
        bank((False, 0, 1)).two(rng, one_hand=False)


# --- reading ---


def test_each_image_in_its_own_view(tex: Texture) -> None:
    rows, views = np.array([5, 0, 5, 3, 5]), np.array([2, 1, 5, 0, 2])
    place = tex.frames(16)
    batch = Bank(tex.store, place, tex.rows, ["l10_t5"]).read(rows, views)
    assert list(batch.features) == ["l10_t5"] and batch.features["l10_t5"].dtype == torch.float32
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        want = tex.store.read(np.array([row]), int(view))["l10_t5"][0]
        assert torch.equal(batch.features["l10_t5"][number], want)
        inside = place.inside(np.array([row]), int(view))[0]
        np.testing.assert_array_equal(batch.inside[number], inside)
    assert not torch.equal(batch.inside[0], batch.inside[3])
    np.testing.assert_array_equal(np.stack([batch.rows, batch.views]), np.stack([rows, views]))


def test_the_store_reads_the_maps_that_are_wanted(tex: Texture) -> None:
    opened, rows = FeatureStore(tex.store.path), np.array([5, 1, 2])
    whole = opened.read(rows, 3)
    assert list(whole) == ["l00_t5", "l10_t5"]
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


def test_points_in_the_cells_of_each_view(tex: Texture) -> None:
    place = tex.frames(16)
    rows, views = np.array([4, 0, 4]), np.array([1, 3, 2])
    views_of = Bank(tex.store, place, tex.rows, ["l10_t5"])
    xy = np.random.default_rng(0).uniform(5, 30, (3, 7, 2)).astype(np.float32)
    xy[1, 2] = np.nan
    cells = views_of.to_cells(views_of.read(rows, views), xy).numpy()
    for number, view in enumerate(views):
        back = place.to_image(rows[[number]], cells[[number]], int(view))[0]
        np.testing.assert_allclose(back, xy[number], atol=1e-4)
    assert np.isnan(cells).sum() == 2 and np.abs(cells[0] - cells[2]).max() > 1


# --- reading ahead ---


def slow(number: int) -> tuple[int, float]:
    """Later numbers are sooner ready."""
    time.sleep(0.002 * (number % 3 == 0))
    return number, float(np.random.default_rng(number).random())


@pytest.mark.parametrize("workers", ["0", "1", "2", "5"])
@pytest.mark.parametrize("first", [0, 1, 7, 11])
def test_reading_ahead_changes_nothing(monkeypatch: pytest.MonkeyPatch, workers: str, first: int) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)
    asked: list[int] = []

    def read(number: int) -> tuple[int, float]:
        asked.append(number)
        return slow(number)

    batches = Ahead(read, 12)
    assert [batches(number) for number in range(first, 12)] == [slow(number) for number in range(first, 12)]
    assert sorted(asked) == list(range(first, 12))  # each once, and none beyond the end


def test_the_next_ones_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_WORKERS", "2")
    begun = {number: threading.Event() for number in range(9)}
    main = threading.get_ident()
    threads = set()

    def read(number: int) -> int:
        threads.add(threading.get_ident())
        begun[number].set()
        return number

    batches = Ahead(read, 9)
    assert batches(3) == 3
    assert begun[4].wait(5) and begun[5].wait(5)
    assert not begun[6].is_set() and not begun[2].is_set()
    assert main not in threads


@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_an_error_is_raised_where_it_belongs(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)

    def read(number: int) -> int:
        if number == 2:
            raise ULDError("no two views")
        return number

    batches = Ahead(read, 5)
    assert [batches(0), batches(1)] == [0, 1]
    with pytest.raises(ULDError, match="no two views"):
        batches(2)
    assert batches(3) == 3


@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_bank_read_ahead(tex: Texture, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """Batches with partners out of several threads at once are those of one."""
    monkeypatch.setenv("ULD_WORKERS", workers)

    def read(views_of: Bank, number: int) -> tuple[torch.Tensor, np.ndarray]:
        rng = np.random.default_rng(number)
        a, b = views_of.two(rng, one_hand=False)
        return views_of.read(rng.integers(0, 6, 2), np.array([a, b])).features["l00_t5"], views_of.partner(a, b)

    shared = Bank(tex.store, tex.frames(16), tex.rows, ["l00_t5"])
    batches = Ahead(lambda number: read(shared, number), 12)
    for number in range(12):
        got, partner = batches(number)
        want, truth = read(Bank(tex.store, tex.frames(16), tex.rows, ["l00_t5"]), number)
        assert torch.equal(got, want)
        np.testing.assert_array_equal(partner, truth)


def test_the_texture_is_what_it_says(tex: Texture, tmp_path: Path) -> None:
    """The dots of the photographs are where the frames put them, in every view: what other tests build on."""
    place = tex.frames(SIZE)  # a cell a pixel
    for view in range(len(tex.store.views)):
        for row in range(8):
            at = torch.from_numpy(place.to_cells(np.array([row]), tex.dots[[row]], view))
            shown = coords.sample(tex.view(row, view).mean(0)[None, None], at)[0, :, 0]
            assert (shown[((at[0] > 0) & (at[0] < SIZE - 1)).all(1)] > 0.8).all()


def test_masks_are_read_once(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, asked = tex.frames(12), []
    views = Bank(tex.store, frames, tex.rows, ["l10_t5"])
    inside = frames.inside

    def spy(rows: np.ndarray, view: int = 0) -> np.ndarray:
        asked.append((int(rows[0]), view))
        return inside(rows, view)

    monkeypatch.setattr(frames, "inside", spy)
    for _ in range(2):
        batch = views.read(np.array([3, 0, 3]), np.array([2, 1, 2]))
        for item, (row, view) in enumerate([(3, 2), (0, 1), (3, 2)]):
            np.testing.assert_array_equal(batch.inside[item], inside(np.array([row]), view)[0])
    assert asked == [(3, 2), (0, 1)] and not batch.inside.all() and batch.inside.any()
