"""Where cells lie in photographs, there and back, and which cells show the object."""

import numpy as np
import pandas as pd
import pytest

from uld.geometry import coords
from uld.geometry.frames import Frames, corners

SIZE, GRID, IMAGES = 32, 8, 4
VIEWS = np.stack(
    [coords.view(SIZE), coords.view(SIZE, True), coords.view(SIZE, False, 90), coords.view(SIZE, True, -25, 1.2)]
)
RNG = np.random.default_rng(1)
# crops of 2 to 4 pixels of the photograph a pixel
AFFINE = np.concatenate(
    [np.eye(2) / RNG.uniform(2, 4, (IMAGES, 1, 1)), RNG.uniform(-9, 9, (IMAGES, 2, 1))], axis=2
)  # fmt: skip


@pytest.fixture
def place() -> Frames:
    boxes = np.tile([-1e3, -1e3, 1e3, 1e3], (IMAGES, 1))
    return Frames(AFFINE, boxes, lambda rows: np.ones((len(rows), SIZE, SIZE), bool), SIZE, GRID)


@pytest.mark.parametrize("view", range(4))
def test_cells_to_image_and_back(place: Frames, view: int) -> None:
    rows = np.array([3, 0, 3])
    cells = np.random.default_rng(0).uniform(-4, 12, (3, 9, 2)).astype(np.float32)
    back = place.to_cells(rows, place.to_image(rows, cells, VIEWS[view]), VIEWS[view])
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, cells, atol=1e-4)
    xy = np.random.default_rng(1).uniform(-50, 200, (3, 9, 2)).astype(np.float32)
    np.testing.assert_allclose(place.to_image(rows, place.to_cells(rows, xy, VIEWS[view]), VIEWS[view]), xy, atol=1e-3)


def test_cells_by_hand() -> None:
    """A crop of half size, moved; four pixels a cell. Pixel (20, 30) is (13, 22) in the crop."""
    affine = np.array([[[0.5, 0, 3], [0, 0.5, 7]]])
    place = Frames(affine, np.array([[-99.0, -99, 999, 999]]), lambda rows: np.ones((1, 32, 32), bool), 32, 8)
    xy, row = np.array([[[20.0, 30.0]]], np.float32), np.array([0])
    np.testing.assert_allclose(place.crop_to_image(row, np.array([[[13.0, 22.0]]], np.float32)), xy)
    wanted = {0: (2.875, 5.125), 1: (4.125, 5.125), 2: (1.875, 2.875)}  # (13 + .5) / 4 - .5; 7 - x; (7 - y, x)
    for view, cell in wanted.items():
        np.testing.assert_allclose(place.to_cells(row, xy, VIEWS[view])[0, 0], cell, atol=1e-5)
        np.testing.assert_allclose(place.to_image(row, np.array([[cell]], np.float32), VIEWS[view]), xy, atol=1e-4)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 2), (3, 0), (2, 3), (3, 3)])
def test_between_two_views_of_an_image(place: Frames, a: int, b: int) -> None:
    cells = np.random.default_rng(0).uniform(-1, 8, (20, 2)).astype(np.float32)
    for row in range(IMAGES):  # whatever the image
        at = np.array([row])
        long_way = place.to_cells(at, place.to_image(at, cells[None], VIEWS[a]), VIEWS[b])[0]
        np.testing.assert_allclose(place.between(VIEWS[a], VIEWS[b], cells), long_way, atol=1e-4)


def test_each_item_in_a_view_of_its_own(place: Frames) -> None:
    rows, views = np.array([3, 0, 3, 1]), np.array([2, 1, 0, 3])
    xy = np.random.default_rng(1).uniform(-50, 200, (4, 9, 2)).astype(np.float32)
    found = place.to_cells(rows, xy, VIEWS[views])
    for item, (row, view) in enumerate(zip(rows, views, strict=True)):
        want = place.to_cells(np.array([row]), xy[[item]], VIEWS[view])[0]
        np.testing.assert_allclose(found[item], want, atol=1e-4)


def test_cells_inside_equal_a_plain_loop() -> None:
    """Their centres lie in the box and on a pixel of the crop that shows the photograph."""
    rng = np.random.default_rng(2)
    boxes = rng.uniform([0, 0, 60, 50], [30, 20, 90, 99], (IMAGES, 4))
    masks = rng.random((IMAGES, SIZE, SIZE)) < 0.7
    place = Frames(AFFINE, boxes, lambda rows: masks[rows], SIZE, GRID)
    rows = np.array([2, 0, 2])
    for view in VIEWS:
        found = place.inside(rows, view)
        assert found.shape == (3, GRID, GRID) and found.dtype == bool and 0 < found.mean() < 1
        to_crop = coords.compose(coords.invert(view), coords.resize(GRID, SIZE))
        for item, y, x in np.ndindex(3, GRID, GRID):
            row = rows[item]
            crop = coords.apply(to_crop, np.array([[x, y]], np.float32))[0]
            column, line = np.rint(crop).astype(int)
            image = coords.apply(coords.invert(AFFINE[row]), crop[None])[0]
            seen = 0 <= column < SIZE and 0 <= line < SIZE and masks[row, line, column]
            box = (image >= boxes[row, :2]).all() and (image <= boxes[row, 2:]).all()
            assert found[item, y, x] == (seen and box)


def test_corners_of_boxes() -> None:
    boxes = pd.DataFrame({"y2": [9, 8], "x1": [1.5, 2], "image": ["a", "b"], "x2": [5, 6], "y1": [3, 4]})
    np.testing.assert_array_equal(corners(boxes), [[1.5, 3, 5, 9], [2, 4, 6, 8]])
    assert corners(boxes).dtype == np.float64
