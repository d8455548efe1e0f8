"""Views of a bank, and the warps of evaluation."""

import numpy as np
import pytest

from uld.base import params
from uld.base.errors import ParamsError
from uld.geometry import views
from uld.geometry.views import EvaluationWarps

SIZE, CENTRE = 64, np.array([31.5, 31.5])
WARPS = EvaluationWarps(200, 20, 0.15, 0.05)


def parts(affines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Degrees, scales and shifts (E, 2) of the crop's centre."""
    turn = np.rad2deg(np.arctan2(affines[:, 1, 0], affines[:, 0, 0]))
    scale = np.sqrt(np.linalg.det(affines[:, :, :2]))
    return turn, scale, affines[:, :, :2] @ CENTRE + affines[:, :, 2] - CENTRE


def test_warps_turn_scale_and_shift_up_to_what_is_asked_for() -> None:
    affines = views.draw(WARPS, 0, SIZE)
    turn, scale, shift = parts(affines)
    assert affines.shape == (200, 2, 3)
    for found, most in ((turn, 20), (scale - 1, 0.15), (shift[:, 0], 0.05 * SIZE), (shift[:, 1], 0.05 * SIZE)):
        assert 0.95 * most < np.abs(found).max() <= most and abs(found.mean()) < 0.15 * most  # either way alike
    # rotation and scale and nothing else: no flip, no shear
    linear = affines[:, :, :2] / scale[:, None, None]
    np.testing.assert_allclose(linear @ np.swapaxes(linear, 1, 2), np.tile(np.eye(2), (200, 1, 1)), atol=1e-12)
    assert (np.linalg.det(linear) > 0).all()


def test_warps_follow_from_the_seed_alone() -> None:
    five, two = (views.draw(EvaluationWarps(count, 20, 0.15, 0.05), 3, SIZE) for count in (5, 2))
    np.testing.assert_array_equal(five[:2], two)
    np.testing.assert_array_equal(views.draw(EvaluationWarps(5, 20, 0.15, 0.05), 3, SIZE), five)
    assert not np.allclose(views.draw(EvaluationWarps(5, 20, 0.15, 0.05), 4, SIZE), five)
    # of a larger crop they are the same motion
    np.testing.assert_allclose(parts(views.draw(EvaluationWarps(2, 20, 0.15, 0.05), 3, 512))[0], parts(two)[0])


def test_no_warps_and_warps_that_do_nothing() -> None:
    assert views.draw(EvaluationWarps(0, 20, 0.15, 0.05), 0, SIZE).shape == (0, 2, 3)
    still = views.draw(EvaluationWarps(3, 0, 0, 0), 0, SIZE)
    np.testing.assert_allclose(still, np.tile(np.eye(2, 3), (3, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("key", "value"), [("count", -1), ("count", 1.5), ("rotate", 181), ("scale", 1), ("shift", 0.5), ("flip", True)]
)
def test_closed_params(key: str, value: object) -> None:
    block = {"count": 4, "rotate": 20, "scale": 0.15, "shift": 0.05}
    assert params.build(EvaluationWarps, block, "evaluate.warps") == EvaluationWarps(4, 20, 0.15, 0.05)
    with pytest.raises(ParamsError, match=f"evaluate.warps.{key}"):
        params.build(EvaluationWarps, block | {key: value}, "evaluate.warps")
