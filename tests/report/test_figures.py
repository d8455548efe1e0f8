"""Drawing over photographs."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uld.geometry import coords
from uld.report import figures, palette

GREY = np.full((60, 80, 3), 128, np.uint8)
near = st.floats(-20, 100, width=32) | st.just(float("nan")) | st.sampled_from([1e30, -1e30, float("inf")])


def changed(image: np.ndarray) -> np.ndarray:
    """Pixels (x, y) that are no longer grey."""
    y, x = np.nonzero((image != 128).any(axis=2))
    return np.stack([x, y], axis=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(near, near), max_size=12), st.floats(1, 6))
def test_overlay_paints_around_its_points_only(points: list[tuple[float, float]], radius: float) -> None:
    xy = np.array(points, np.float32).reshape(-1, 2)
    before = GREY.copy()
    image = figures.overlay(before, xy, radius)
    assert (before == GREY).all()
    assert image.shape == GREY.shape
    assert image.dtype == np.uint8
    painted = changed(image)
    inside = xy[((xy >= -0.5) & (xy <= [79.5, 59.5])).all(axis=1)]
    assert bool(len(painted)) == bool(len(inside))
    if len(inside):
        distance = np.linalg.norm(painted[:, None] - inside[None], axis=2).min(axis=1)
        assert distance.max() < figures.RIM * radius * 1.6 + 2  # 1.6: the corner of a triangle


@pytest.mark.parametrize("k", range(11))
def test_the_colour_at_a_point_is_its_landmarks(k: int) -> None:
    xy = np.full((k + 1, 2), np.nan, np.float32)
    xy[k] = 40, 30
    assert tuple(figures.overlay(GREY, xy, 4)[30, 40]) == palette.rgb(palette.colour(k))


@settings(max_examples=30, deadline=None)
@given(st.floats(20, 60), st.floats(20, 40))
def test_markers_lie_between_pixels(x: float, y: float) -> None:
    image = figures.overlay(np.zeros((60, 80, 3), np.uint8), np.array([[x, y]]), 5)
    weight = image.max(axis=2) > 100  # landmark 0: a bright disc with a dark rim
    rows, columns = np.nonzero(weight)
    assert (columns.mean(), rows.mean()) == pytest.approx((x, y), abs=0.35)


def test_no_landmarks_no_change() -> None:
    assert (figures.overlay(GREY, np.empty((0, 2), np.float32), 3) == GREY).all()


@pytest.mark.parametrize("size", [32, 160, 512])
def test_a_tile_marks_the_image_point(size: int) -> None:
    affine = coords.crop(np.array([[10.0, 20.0, 110.0, 120.0]]), 0.1, size)[0]
    at = np.array([[50.0, 90.0]], np.float32)
    crop = np.full((size, size, 3), 128, np.uint8)
    image = figures.tile(crop, affine, at, 160, 4)
    assert image.shape == (160, 160, 3)
    share = (at[0] - [0, 10]) / 120  # the crop spans x 0..120, y 10..130, as edges
    assert changed(image).mean(axis=0) == pytest.approx(share * 160 - 0.5, abs=0.5)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 47), st.floats(0, 47))
def test_a_patch_has_its_point_in_the_middle(x: float, y: float) -> None:
    rows, columns = np.indices((48, 48))
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    crop = np.repeat(blob[..., None], 3, axis=2).astype(np.uint8)
    affine = np.array([[0.5, 0, 3], [0, 0.5, -2]])
    point = coords.apply(coords.invert(affine), np.array([[x, y]], np.float32))[0]
    patch = figures.patch(crop, affine, point, 0.25, 49)[..., 0].astype(float)
    assert patch[24, 24] > 0.9 * patch.max() > 100


def test_a_mosaic_puts_tiles_in_reading_order() -> None:
    tiles = [np.full((10, 10, 3), value, np.uint8) for value in range(5)]
    image = figures.mosaic(tiles, 3)
    assert image.shape == (2 * 10 + figures.GAP, 3 * 10 + 2 * figures.GAP, 3)
    step = 10 + figures.GAP
    found = [[int(image[y * step, x * step, 0]) for x in range(3)] for y in range(2)]
    assert found == [[0, 1, 2], [3, 4, 255]]
    assert figures.mosaic(tiles[:2], 6).shape == (10, 20 + figures.GAP, 3)


def test_fading_leaves_the_photograph() -> None:
    inside = np.arange(60)[:, None] + np.zeros(80) < 30
    image = figures.fade(GREY, inside)
    assert (image[:30] == 128).all()
    assert (image[30:] > 230).all()


def test_png_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    back = cv2.imdecode(np.frombuffer(figures.png(image), np.uint8), cv2.IMREAD_COLOR)
    assert back is not None
    assert (back[..., ::-1] == image).all()
