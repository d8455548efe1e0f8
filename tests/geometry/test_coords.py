"""Frames and transforms: round trips, the half-pixel convention, and pictures that move as the affines say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from uld.geometry import coords, sampling


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """A well-conditioned 2 x 3 affine: mirror or not, rotation, scale and shift."""
    affine = coords.view(
        draw(st.integers(4, 64)), draw(st.booleans()), draw(st.floats(-180, 180)), draw(st.floats(0.2, 5))
    )
    affine[:, 2] += draw(st.floats(-50, 50)), draw(st.floats(-50, 50))
    return affine


def points(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-40, 40, (*shape, 2))


# --- points ---


@given(affines(), st.integers(0, 99))
def test_invert_undoes_apply(affine: np.ndarray, seed: int) -> None:
    xy = points(seed, 7)
    np.testing.assert_allclose(coords.apply(coords.invert(affine), coords.apply(affine, xy)), xy, atol=5e-4)
    np.testing.assert_allclose(coords.compose(coords.invert(affine), affine), [[1, 0, 0], [0, 1, 0]], atol=1e-9)


@given(affines(), affines(), st.integers(0, 99))
def test_compose_applies_the_first_first(first: np.ndarray, second: np.ndarray, seed: int) -> None:
    xy = points(seed, 5)
    want = second[:, :2] @ (first[:, :2] @ xy.T + first[:, 2:]) + second[:, 2:]
    np.testing.assert_allclose(coords.apply(coords.compose(second, first), xy), want.T, rtol=1e-5, atol=1e-3)


def test_a_stack_of_affines_maps_each_its_own_points() -> None:
    stack = np.stack([coords.view(9, rotate=a) for a in (0, 30, 200)])
    xy = points(0, 3, 4)
    out = coords.apply(stack, xy)
    assert out.shape == (3, 4, 2)
    assert out.dtype == np.float32
    for one, affine, want in zip(xy, stack, out, strict=True):
        np.testing.assert_array_equal(coords.apply(affine, one), want)
    np.testing.assert_allclose(coords.invert(stack)[1], coords.invert(stack[1]))
    np.testing.assert_allclose(coords.compose(stack, stack)[2], coords.compose(stack[2], stack[2]))


@given(st.integers(1, 200), st.integers(1, 200))
def test_resize_maps_edges_to_edges_and_back(old: int, new: int) -> None:
    edges = np.array([[-0.5, -0.5], [old - 0.5, old - 0.5]])
    np.testing.assert_allclose(
        coords.apply(coords.resize(old, new), edges), [[-0.5, -0.5], [new - 0.5, new - 0.5]], atol=1e-4
    )
    np.testing.assert_allclose(
        coords.compose(coords.resize(new, old), coords.resize(old, new)), [[1, 0, 0], [0, 1, 0]], atol=1e-9
    )


@given(
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.floats(2, 300),
    st.floats(2, 300),
    st.floats(0, 1),
    st.integers(8, 99),
)
def test_a_box_fills_its_crop_but_for_the_margin(
    x: float, y: float, width: float, height: float, margin: float, size: int
) -> None:
    affine = coords.crop(np.array([[x, y, x + width, y + height]]), margin, size)[0]
    side = max(width, height) * (1 + 2 * margin)
    corners = coords.apply(affine, np.array([[x, y], [x + width, y + height]]))
    # without margin, the longer side reaches the crop's outer edges -0.5 and S - 0.5; both sides are centred
    share = size / side
    for axis, length in enumerate((width, height)):
        gap = (side - length) / 2 * share
        np.testing.assert_allclose(corners[:, axis], [-0.5 + gap, size - 0.5 - gap], atol=size * 2e-4)
    assert affine[0, 0] == affine[1, 1]
    assert affine[0, 1] == affine[1, 0] == 0


def test_a_box_over_whole_pixels_is_cut_pixel_by_pixel() -> None:
    """The box over pixels 3..10 in x and 5..12 in y, crop of 8: pixel 3 becomes pixel 0."""
    affine = coords.crop(np.array([[2.5, 4.5, 10.5, 12.5]]), 0.0, 8)[0]
    np.testing.assert_allclose(affine, [[1, 0, -3], [0, 1, -5]])


def test_a_mirror_counts_x_from_the_other_side() -> None:
    point = np.array([[1.0, 5.0]])
    for affine in (coords.view(8, rotate=90, scale=2), coords.view(8)):
        there = coords.apply(affine, point)
        found = coords.apply(coords.mirrored(affine, 8), point)
        np.testing.assert_allclose(found, [7, 0] + there * [-1, 1], atol=1e-5)
    np.testing.assert_allclose(coords.mirrored(coords.view(8), 8), coords.view(8, mirror=True))


def test_view_mirrors_then_rotates_then_scales() -> None:
    c = 7.5  # centre of 16 pixels
    right = np.array([[c + 4, c]])
    np.testing.assert_allclose(coords.apply(coords.view(16, mirror=True), right), [[c - 4, c]])
    np.testing.assert_allclose(coords.apply(coords.view(16, rotate=90), right), [[c, c + 4]], atol=1e-6)  # x towards y
    np.testing.assert_allclose(coords.apply(coords.view(16, True, 90, 0.5), right), [[c, c - 2]], atol=1e-6)


# --- pictures ---


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_mirror_and_quarter_turns_are_exact(size: int, mirror: bool, rotate: int) -> None:
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    want = image.flip(3) if mirror else image
    want = torch.rot90(want, -rotate // 90, (2, 3))  # x towards y is clockwise on the screen
    got = sampling.warp(image, coords.view(size, mirror, rotate))
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


@given(affines())
def test_warp_shows_at_each_pixel_what_was_where_invert_says(affine: np.ndarray) -> None:
    """On a ramp bilinear sampling is exact, so a picture of coordinates tells where each pixel came from."""
    size = 24
    ramp = torch.from_numpy(coords.cells(size).T.reshape(1, 2, size, size).copy())
    source = coords.apply(coords.invert(affine), coords.cells(size)).T.reshape(2, size, size)
    clear = ((source > 0) & (source < size - 1)).all(0)
    got = sampling.warp(ramp, affine)[0].numpy()
    np.testing.assert_allclose(got[:, clear], source[:, clear], atol=1e-3)


def test_warp_moves_a_dot_to_where_apply_says() -> None:
    affine = coords.view(25, mirror=True, rotate=30, scale=1.5) + np.array([[0, 0, 2], [0, 0, -1]])
    dot = torch.zeros(1, 1, 25, 25)
    dot[0, 0, 9, 14] = 1
    moved = sampling.warp(dot, affine, "zeros")[0, 0].numpy()
    rows, columns = np.mgrid[:25, :25]
    centre = np.array([(moved * columns).sum(), (moved * rows).sum()]) / moved.sum()
    np.testing.assert_allclose(centre, coords.apply(affine, np.array([[14, 9]]))[0], atol=0.1)
    assert abs(moved.sum() - 1.5**2) < 0.1  # and stretches it


def test_padding_of_a_warp() -> None:
    shifted = np.array([[1.0, 0, 3], [0, 1, 0]])  # to the right by 3
    image = torch.arange(8.0).expand(1, 1, 8, 8)
    row = {kind: sampling.warp(image, shifted, kind)[0, 0, 4] for kind in ("reflection", "border", "zeros")}
    torch.testing.assert_close(row["reflection"], torch.tensor([2.0, 1, 0, 0, 1, 2, 3, 4]))
    torch.testing.assert_close(row["border"], torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4]))
    torch.testing.assert_close(row["zeros"], torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4]))


# --- samples ---


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 99))
def test_sampling_a_ramp_is_exact(height: int, width: int, seed: int) -> None:
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    maps = torch.stack([3 * x - y + 1, 0.5 * y])[None]
    rng = np.random.default_rng(seed)
    at = torch.from_numpy(rng.uniform(0, 1, (1, 6, 2)) * [width - 1, height - 1]).float()
    want = torch.stack([3 * at[..., 0] - at[..., 1] + 1, 0.5 * at[..., 1]], 2)
    torch.testing.assert_close(sampling.sample(maps, at), want, atol=1e-4, rtol=0)


def test_sampling_outside_takes_the_border() -> None:
    maps = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    at = torch.tensor([[[-0.5, 0.0], [-9.0, 2.0], [3.5, 1.0], [70.0, -3.0]]])
    torch.testing.assert_close(sampling.sample(maps, at)[0, :, 0], torch.tensor([0.0, 0.0, 3.0, 3.0]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_point_samples_its_own_map(layout: torch.memory_format) -> None:
    maps = torch.rand(4, 5, 6, 7, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    rng = np.random.default_rng(1)
    index = torch.from_numpy(rng.integers(4, size=300))
    at = torch.from_numpy(rng.uniform(-2, 8, (300, 2))).float()  # outside, too
    want = sampling.sample(maps[index], at[:, None])[:, 0]
    torch.testing.assert_close(sampling.sample_each(maps, index, at), want, atol=1e-5, rtol=0)
    corners = torch.tensor([[0.0, 0], [6, 5], [6, 0], [0, 5], [3, 2]])
    assert torch.equal(
        sampling.sample_each(maps, torch.full((5,), 2), corners), maps[2][:, [0, 5, 0, 5, 2], [0, 6, 6, 0, 3]].T
    )
    half = sampling.sample_each(maps.half(), index, at)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, sampling.sample_each(maps.half().float(), index, at), atol=1e-6, rtol=0)


def test_resized_is_bilinear_interpolation() -> None:
    maps = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    want = torch.nn.functional.interpolate(maps, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sampling.resized(maps, 16), want, atol=1e-6, rtol=0)
    weight = torch.rand(2, 3, 16, 16)
    slopes = [torch.autograd.grad((out * weight).sum(), maps)[0] for out in (sampling.resized(maps, 16), want)]
    torch.testing.assert_close(*slopes)
    assert sampling.resized(maps, 6) is maps


def test_sampling_agrees_with_the_upsampling_that_heads_use() -> None:
    """A cell of the fine grid, mapped by `resize`, reads what `resized` puts there."""
    maps = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = sampling.resized(maps, 16)
    at = torch.from_numpy(coords.apply(coords.resize(16, 6), coords.cells(16))).expand(2, -1, -1)
    torch.testing.assert_close(sampling.sample(maps, at), fine.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


def test_cells_run_along_rows() -> None:
    np.testing.assert_array_equal(coords.cells(2), [[0, 0], [1, 0], [0, 1], [1, 1]])
    values = torch.arange(9.0).reshape(1, 1, 3, 3)
    read = sampling.sample(values, torch.from_numpy(coords.cells(3))[None])
    torch.testing.assert_close(read.flatten(), torch.arange(9.0), atol=1e-5, rtol=0)
