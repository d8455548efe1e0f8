"""Warps: round trips, exact mirrors, pictures that move as points do, and splines as scipy and kornia have them."""

import math

import numpy as np
import pytest
import torch
from kornia.geometry.transform import warp_points_tps
from scipy.interpolate import RBFInterpolator

from uld.geometry import coords, sampling, warps
from uld.geometry.warps import Warp

SIZE = 32


def drawn(count: int, controls: int = 0, share: float = 0.04, size: int = SIZE, seed: int = 0) -> Warp:
    """Random warps; with `controls`, bent by up to `share` of the side."""
    rng = np.random.default_rng(seed)
    flipped, turn, scale = rng.random(count) < 0.5, rng.uniform(-180, 180, count), rng.uniform(0.7, 1.4, count)
    affine = warps.affines(size, flipped, turn, scale, rng.uniform(-3, 3, (count, 2)))
    bend = torch.from_numpy(rng.uniform(-share, share, (count, controls**2, 2)) * size) if controls else None
    return Warp(torch.from_numpy(affine), size, bend)


def points(count: int, low: float = -0.5, high: float = SIZE - 0.5, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, (count, 40, 2)))


def control_points(controls: int, size: int = SIZE) -> torch.Tensor:
    line = np.linspace(-0.5, size - 0.5, controls)
    return torch.from_numpy(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))


def close(one: torch.Tensor, other: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol, check_dtype=False, equal_nan=True)


# --- affines ---


def test_affines_are_those_of_single_views() -> None:
    rng = np.random.default_rng(0)
    flipped, turn, scale, shift = (
        rng.random(9) < 0.5,
        rng.uniform(-99, 99, 9),
        rng.uniform(0.5, 2, 9),
        rng.random((9, 2)),
    )
    found = warps.affines(SIZE, flipped, turn, scale, shift)
    for number in range(9):
        want = coords.view(SIZE, bool(flipped[number]), turn[number], scale[number])
        want[:, 2] += shift[number]
        np.testing.assert_allclose(found[number], want, atol=1e-12)


def test_affine_round_trips() -> None:
    warp, xy = drawn(6), points(6, -90, 90)
    close(warp.to_view(warp.to_crop(xy)), xy, 1e-12)
    close(warp.to_crop(xy), torch.from_numpy(coords.apply(coords.invert(warp.affine.numpy()), xy.numpy())), 1e-4)
    assert warp.to_crop(xy.float()).dtype == torch.float64


def test_what_flips() -> None:
    turned = warps.affines(8, np.array([True, False]), np.array([170.0, 170]), np.array([0.5, 2]), np.zeros((2, 2)))
    assert Warp.of(turned, 8).flipped.tolist() == [True, False]


def test_identity() -> None:
    warp, images, xy = Warp.identity(2, 8), torch.rand(2, 3, 8, 8), points(2)
    assert torch.equal(warp.resample(images), images) and torch.equal(warp.to_view(xy), xy) and len(warp) == 2


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_mirror_and_quarter_turns_are_exact(padding: str) -> None:
    image = torch.rand(1, 3, 16, 16)
    turn, flip = np.array([0.0, 90, 180, 270]).repeat(2), np.tile([False, True], 4)
    warp = Warp.of(warps.affines(16, flip, turn, np.ones(8), np.zeros((8, 2))), 16)
    found = warp.resample(image.expand(8, 3, 16, 16), padding)
    for number in range(8):
        mirrored = image.flip(3) if flip[number] else image
        want = mirrored.rot90(-round(turn[number] / 90), (2, 3))[0]  # x turns towards y: clockwise on the screen
        assert torch.equal(found[number], want)


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_pictures_are_those_of_single_warps(padding: str) -> None:
    warp, images = drawn(5), torch.rand(5, 2, SIZE, SIZE)
    found = warp.resample(images, padding)
    for number in range(5):
        want = sampling.warp(images[[number]], warp.affine[number].numpy(), padding)
        close(found[[number]], want, 1e-4)


# --- splines ---


@pytest.mark.parametrize("controls", [2, 3, 5, 10])
def test_a_spline_is_scipys(controls: int) -> None:
    """An independent thin-plate spline through the displaced control points, also outside the view."""
    warp, xy = drawn(3, controls), points(3, -20, SIZE + 20)
    assert warp.bend is not None
    at, back = control_points(controls), coords.invert(warp.affine.numpy())
    for number in range(3):
        spline = RBFInterpolator(at, at + warp.bend[number], kernel="thin_plate_spline", degree=1)
        want = spline(xy[number]) @ back[number, :, :2].T + back[number, :, 2]
        close(warp.to_crop(xy)[number], torch.from_numpy(want), 1e-8)


def test_weights_are_those_that_kornia_evaluates() -> None:
    """Its solver has other side conditions; the value of a spline of given weights is the same."""
    warp, xy = drawn(3, 4), points(3)
    assert warp.bend is not None
    at = control_points(4).expand(3, 16, 2) * (2 / SIZE) - (1 - 1 / SIZE)
    weights, polynomial = (warps._solution(4) @ warp.bend).split([16, 3], 1)
    moved = xy + warp_points_tps(xy * (2 / SIZE) - (1 - 1 / SIZE), at, weights, polynomial)
    close(warp.to_crop(xy), Warp(warp.affine, SIZE).to_crop(moved), 1e-9)


def test_control_points_go_where_they_are_sent() -> None:
    warp = drawn(4, 5)
    assert warp.bend is not None
    at = control_points(5).expand(4, 25, 2)
    close(warp.to_crop(at), Warp(warp.affine, SIZE).to_crop(at + warp.bend), 1e-9)


def test_no_displacement_is_no_spline() -> None:
    straight = drawn(4)
    bent = Warp(straight.affine, SIZE, torch.zeros(4, 16, 2, dtype=torch.float64))
    xy, images = points(4), torch.rand(4, 3, SIZE, SIZE)
    close(bent.to_crop(xy), straight.to_crop(xy), 1e-12)
    close(bent.to_view(xy), straight.to_view(xy), 1e-12)
    close(bent.resample(images), straight.resample(images), 1e-5)


def test_equal_displacements_shift() -> None:
    bend = torch.tensor([3.0, -2]).double().expand(2, 16, 2)
    xy = points(2)
    close(Warp(Warp.identity(2, SIZE).affine, SIZE, bend).to_crop(xy), xy + bend[:, :1], 1e-9)


@pytest.mark.parametrize(("controls", "share"), [(2, 0.1), (3, 0.09), (5, 0.05), (10, 0.02)])
@pytest.mark.parametrize("size", [8, 64, 512])
def test_spline_round_trips(controls: int, share: float, size: int) -> None:
    warp = drawn(6, controls, share, size)
    assert warp.bend is not None
    warp = Warp(warp.affine, size, warps.unfolded(warp.bend, size))
    xy = points(6, -0.3 * size, 1.3 * size)
    xy[2, 3, 0] = torch.nan
    found = warp.to_view(warp.to_crop(xy))
    xy[2, 3] = torch.nan
    close(found, xy, 1e-4)


def test_a_fold_finds_a_point_or_says_so() -> None:
    warp = drawn(4, 6, share=0.4)
    xy = points(4)
    found = warp.to_view(xy)
    there = found.isfinite().all(2)
    assert 0 < there.sum() < there.numel()
    close(warp.to_crop(found)[there], xy[there], 1e-2)


@pytest.mark.parametrize("controls", [2, 4, 7])
def test_unfolding(controls: int) -> None:
    small, large = drawn(4, controls, 0.01).bend, drawn(4, controls, 0.5).bend
    assert small is not None and large is not None
    assert torch.equal(warps.unfolded(small, SIZE), small)
    warp = Warp(Warp.identity(4, SIZE).affine, SIZE, warps.unfolded(large, SIZE))
    assert warp.bend is not None
    ratio = warp.bend / large
    close(ratio, ratio[:, :1, :1].expand_as(ratio), 1e-12)
    # the areas of a fine grid's cells keep their sign
    corners = warp.cells_in_crop(64).unflatten(1, (64, 64))
    right, down = corners[:, :-1, 1:] - corners[:, :-1, :-1], corners[:, 1:, :-1] - corners[:, :-1, :-1]
    assert (right[..., 0] * down[..., 1] > right[..., 1] * down[..., 0]).all()


def test_points_between_views() -> None:
    a, b, xy = drawn(3, 4), drawn(3, 4, seed=5), points(3)
    close(a.between(b, xy), b.to_view(a.to_crop(xy)), 0)
    close(b.between(a, a.between(b, xy)), xy, 1e-4)


@pytest.mark.parametrize("controls", [0, 4])
def test_cells_in_the_crop(controls: int) -> None:
    warp = drawn(3, controls)
    cells = torch.from_numpy(coords.apply(coords.resize(8, SIZE), coords.cells(8)))
    close(warp.cells_in_crop(8), warp.to_crop(cells.expand(3, 64, 2)), 1e-6)


# --- pictures ---


@pytest.mark.parametrize("controls", [0, 3, 5])
def test_a_blob_lands_where_its_point_does(controls: int) -> None:
    size, sigma = 64, 2.0
    warp = drawn(16, controls, 0.03, size)
    p = torch.from_numpy(np.random.default_rng(2).uniform(22, 42, (16, 1, 2)))
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = (x - p[..., :1]) ** 2 + (y - p[..., 1:]) ** 2
    shown = warp.resample(torch.exp(-distance / (2 * sigma**2))[:, None].float(), "zeros")[:, 0]
    mass = shown.sum((1, 2))
    centre = torch.stack([(shown * x).sum((1, 2)) / mass, (shown * y).sum((1, 2)) / mass], 1)
    error = (centre - warp.to_view(p)[:, 0]).norm(dim=1)
    assert error.max() < (0.02 if controls == 0 else 0.3)  # a bent blob is not symmetric


@pytest.mark.parametrize("controls", [0, 3, 10])
def test_each_pixel_shows_its_place_in_the_crop(controls: int) -> None:
    warp, images = drawn(3, controls, 0.02), torch.rand(3, 2, SIZE, SIZE)
    pixels = torch.from_numpy(coords.cells(SIZE)).expand(3, -1, 2)
    want = sampling.sample(images, warp.to_crop(pixels)).mT.unflatten(2, (SIZE, SIZE))
    close(warp.resample(images, "border"), want, 1e-4)


# --- batches of warps ---


def test_take_and_cat() -> None:
    bent, straight, xy = drawn(3, 4), drawn(2, seed=3), points(5)
    both = Warp.cat([straight, bent])
    want = torch.cat([straight.to_crop(xy[:2]), bent.to_crop(xy[2:])])
    close(both.to_crop(xy), want, 1e-12)
    for index in (slice(1, 4), torch.tensor([3, 0]), np.array([4, 4, 1]), np.array([True, False, True, False, True])):
        at = torch.from_numpy(index) if isinstance(index, np.ndarray) else index
        close(both.take(index).to_crop(xy[at]), want[at], 1e-12)
    assert Warp.cat([straight, straight]).bend is None
    with pytest.raises(ValueError, match="cannot be joined"):
        Warp.cat([bent, drawn(1, 5)])
    with pytest.raises(ValueError, match="cannot be joined"):
        Warp.cat([straight, drawn(1, size=8)])


# --- partners ---


def nearest(a: np.ndarray, b: np.ndarray, grid: int) -> list[int]:
    """As `Bank` has it, cell by cell: the cell of view b (2, 3) that is nearest to each of view a."""
    to_crop = coords.compose(coords.invert(a), coords.resize(grid, SIZE))
    to_cells = coords.invert(coords.compose(coords.invert(b), coords.resize(grid, SIZE)))
    found = []
    for xy in coords.cells(grid):
        x, y = (math.floor(v + 0.5) for v in coords.apply(coords.compose(to_cells, to_crop), xy[None])[0])
        found.append(y * grid + x if 0 <= x < grid and 0 <= y < grid else -1)
    return found


def test_partners_of_affines_are_the_banks() -> None:
    """Also where ties decide: mirrors, quarter turns, scales of 1.5 and 0.4."""
    plain = [(False, 0, 1), (True, 0, 1), (False, 90, 1), (False, 0, 1.5), (True, 0, 0.4), (False, 180, 0.5)]
    views = [coords.view(SIZE, *view) for view in plain] + list(drawn(4).affine.numpy())
    pairs = [(a, b) for a in range(len(views)) for b in range(len(views))]
    a, b = (Warp.of(np.stack([views[pair[side]] for pair in pairs]), SIZE) for side in (0, 1))
    found = warps.partner(a, b, 8)
    for number, (one, other) in enumerate(pairs):
        there, back = nearest(views[one], views[other], 8), nearest(views[other], views[one], 8)
        want = [at if at >= 0 and back[at] == cell else -1 for cell, at in enumerate(there)]
        assert found[number].tolist() == want
    assert found.dtype == torch.int64 and (found[0] == torch.arange(64)).all()


def test_partners_under_splines() -> None:
    grid, a, b = 8, drawn(3, 4), drawn(3, 4, seed=1)
    found = warps.partner(a, b, grid)
    cells = coords.resize(grid, SIZE)
    centres = torch.from_numpy(coords.apply(cells, coords.cells(grid))).expand(3, -1, 2)

    def at(one: Warp, other: Warp, number: int) -> list[tuple[int, int]]:
        seen = coords.apply(coords.invert(cells), one.between(other, centres)[number].numpy())
        return [(math.floor(x + 0.5), math.floor(y + 0.5)) for x, y in seen]

    for number in range(3):
        there, back = at(a, b, number), at(b, a, number)
        for cell, (x, y) in enumerate(there):
            inside = 0 <= x < grid and 0 <= y < grid
            mutual = inside and back[y * grid + x] == (cell % grid, cell // grid)
            assert found[number, cell] == (y * grid + x if mutual else -1)
    assert (found >= 0).sum() > 60
    assert torch.equal(warps.partner(a, a, grid), torch.arange(64).expand(3, 64))


@pytest.mark.parametrize(("controls", "share"), [(0, 0.0), (3, 0.09), (5, 0.05), (10, 0.02)])
def test_nearby_is_near(controls: int, share: float) -> None:
    warp = drawn(8, controls, share, 64)
    xy = points(8, 0, 63)
    close(warp.nearby(warp.to_crop(xy)), xy, 2e-3)
