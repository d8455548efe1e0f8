"""The z-buffer against plain geometry."""

import numpy as np
import pytest

from uld.datasets.heads3d.render import facing, grid_faces, rasterise

TRIANGLE = np.array([[1.5, 2.25, 0], [11.25, 4.0, 2], [4.75, 13.5, 5]], np.float32)


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def covered(corner: np.ndarray, size: int) -> np.ndarray:
    """Pixels on the inner side of all three edges, one by one."""
    found = []
    for y in range(size):
        for x in range(size):
            edges = zip(corner, np.roll(corner, -1, 0), strict=True)
            turn = [cross(b - a, np.array([x, y]) - a) for a, b in edges]
            if min(turn) >= 0 or max(turn) <= 0:
                found.append(y * size + x)
    return np.array(found)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_a_triangle_covers_its_pixels(order: list[int]) -> None:
    shown = rasterise(TRIANGLE, np.array([order]), 16)
    assert shown.pixel.tolist() == covered(TRIANGLE[:, :2].astype(float), 16).tolist() and len(shown.pixel) > 40
    at = shown.interpolate(TRIANGLE)
    np.testing.assert_allclose(at[:, 0], shown.pixel % 16, atol=1e-4)
    np.testing.assert_allclose(at[:, 1], shown.pixel // 16, atol=1e-4)
    np.testing.assert_allclose(shown.depth.ravel()[shown.pixel], at[:, 2], atol=1e-5)
    assert np.isneginf(np.delete(shown.depth.ravel(), shown.pixel)).all()


def test_the_nearer_surface_is_seen() -> None:
    far, near = TRIANGLE.copy(), TRIANGLE.copy()
    far[:, 2], near[:, 2] = [-9, -1, -1], [-1, -9, -9]  # they cross
    xyz = np.concatenate([far, near])
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    shown = rasterise(xyz, faces, 16)
    depth = np.stack([rasterise(one, faces[:1], 16).depth for one in (far, near)])
    np.testing.assert_array_equal(shown.depth, depth.max(0))
    second = depth[1].ravel()[shown.pixel] > depth[0].ravel()[shown.pixel]
    np.testing.assert_array_equal(shown.vertices[:, 0] == 3, second)
    assert second.any() and not second.all()
    again = rasterise(xyz, faces[::-1], 16)
    np.testing.assert_array_equal(again.depth, shown.depth)


def test_a_side_is_turned_to_the_viewer_or_away() -> None:
    flat = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)  # row by row, y down: as a sheet is
    assert facing(flat, grid_faces(2, 2)).all()
    assert not facing(flat * np.float32([-1, 1, 1]), grid_faces(2, 2)).any()


def test_what_leaves_the_image_is_cut() -> None:
    big = np.array([[-40, -40, 1], [70, -30, 1], [-20, 90, 1]], np.float32)
    assert len(rasterise(big, np.array([[0, 1, 2]]), 8).pixel) == 64
    assert not len(rasterise(big + np.float32([500, 0, 0]), np.array([[0, 1, 2]]), 8).pixel)
    line = np.array([[0, 0, 0], [3, 3, 0], [6, 6, 0]], np.float32)
    assert not len(rasterise(line, np.array([[0, 1, 2]]), 8).pixel)


def test_a_sheet_has_no_hole_and_no_double() -> None:
    faces = grid_faces(5, 4)
    assert len(faces) == 2 * 4 * 3
    y, x = np.mgrid[0:5, 0:4]
    flat = np.stack([x, y], -1).reshape(-1, 2).astype(float)
    a, b, c = (flat[faces[:, i]] for i in range(3))
    area = np.abs(cross(b - a, c - a)) / 2
    assert (area == 0.5).all()
    xyz = np.concatenate([flat * 5 + 0.3, np.zeros((20, 1))], 1).astype(np.float32)
    shown = rasterise(xyz, faces, 32)
    assert len(shown.pixel) == 15 * 20
