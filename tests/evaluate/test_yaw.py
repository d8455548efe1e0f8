"""Yaw of annotated faces."""

import numpy as np
import pytest

from uld.datasets.heads3d import head, landmarks
from uld.datasets.heads3d.photo import photo
from uld.evaluate.yaw import _model, from_points


def test_the_table_is_the_rest_shape_of_the_generated_heads() -> None:
    index, weights = landmarks.corners()
    want = (head.skin().chart.reshape(-1, 3)[index] * weights[..., None]).sum(1)
    np.testing.assert_allclose(_model(), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("yaw", [-80, -30, 0, 45])
def test_of_a_turned_head(yaw: float) -> None:
    """An average head, turned, shown at any scale and place."""
    a = np.deg2rad(yaw)
    x, y, z = _model().T
    seen = np.stack([x * np.cos(a) + z * np.sin(a), y], 1) * 37 + [90, 14]
    some = seen.copy()
    some[::3] = np.nan
    np.testing.assert_allclose(from_points(np.stack([seen, some])), yaw, atol=1e-6)


def test_jaw_points_that_follow_the_contour_do_not_count() -> None:
    x, y, z = _model().T
    seen = np.stack([x * np.cos(0.6) + z * np.sin(0.6), y], 1)
    seen[:8] -= 0.3
    seen[9:17] -= 0.1
    np.testing.assert_allclose(from_points(seen[None]), np.rad2deg(0.6), atol=1e-6)


def test_too_few_points() -> None:
    seen = np.full((1, 68, 2), np.nan)
    seen[0, :27] = 1  # the jaw, of which the chin counts, and ten more
    assert np.isnan(from_points(seen)).all()


def test_of_other_faces_in_perspective() -> None:
    photos = [photo(0, 11 * i, 64) for i in range(25)]
    off = from_points(np.stack([one.xy for one in photos])) - [one.yaw for one in photos]
    assert np.abs(off).max() < 20 and np.abs(off).mean() < 8
