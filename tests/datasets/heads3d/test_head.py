"""The rest shape, its 68 points, and how it changes."""

import numpy as np
import pytest

from uld.datasets.heads3d import head, landmarks
from uld.datasets.heads3d.landmarks import corners


def placed() -> np.ndarray:
    index, weights = corners()
    return (head.skin().chart.reshape(-1, 3)[index] * weights[..., None]).sum(1)


def test_the_head_is_its_own_mirror_image() -> None:
    chart = head.skin().chart
    np.testing.assert_allclose(chart[:, ::-1] * [-1, 1, 1], chart, atol=1e-9)
    left, right = (ear.chart for ear in head.ears())
    np.testing.assert_array_equal(left * [-1, 1, 1], right)
    assert left[..., 0].max() < 0


def test_nose_stands_out() -> None:
    chart = head.skin().chart
    tip = chart.reshape(-1, 3)[chart[..., 2].argmax()]
    assert abs(tip[0]) < 0.02 and 0.3 < tip[1] < 0.42 and tip[2] > 0.95


def test_landmarks_are_weighted_means_of_vertices() -> None:
    index, weights = corners()
    assert index.shape == weights.shape == (68, 4)
    assert (weights >= -1e-9).all()
    np.testing.assert_allclose(weights.sum(1), 1)


def test_landmarks_are_where_they_are_said_to_be() -> None:
    xyz = placed()
    np.testing.assert_allclose(xyz[17:, :2], landmarks._charted(), atol=2e-3)
    np.testing.assert_allclose(xyz[[0, 8, 16], 1], [0, 0.97, 0], atol=1e-6)
    assert xyz[0, 0] < -0.6 and xyz[16, 0] > 0.6 and abs(xyz[8, 0]) < 1e-6
    assert (np.diff(xyz[:9, 1]) > 0).all() and (np.diff(xyz[8:17, 1]) < 0).all() and (np.diff(xyz[:17, 0]) > 0).all()


def mirror() -> np.ndarray:
    """(68,) Which landmark of the mirrored image each landmark becomes."""
    pairs = [*zip(range(8), range(16, 8, -1), strict=True), *zip(range(17, 22), range(26, 21, -1), strict=True)]
    pairs += [(31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)]
    order = np.arange(68)
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


def test_mirrored_landmarks() -> None:
    order, xyz = mirror(), placed()
    np.testing.assert_array_equal(order[order], np.arange(68))
    np.testing.assert_allclose(xyz[order] * [-1, 1, 1], xyz, atol=2e-3)
    assert (order == np.arange(68)).sum() == 10  # chin, ridge and base of the nose, middle of the lips


def amount(kind: str, name: str) -> np.ndarray:
    """How each landmark moves by one unit of a mode (68, 3)."""
    modes = (head.identities() if kind == "identity" else head.expressions())[0]
    index, weights = corners()
    move = modes.moves[modes.names.index(name)].reshape(-1, 3)
    return (move[index] * weights[..., None]).sum(1)


def test_modes_do_what_they_are_called() -> None:
    smile, opened, blink = (amount("expression", name) for name in ("smile", "open", "blink"))
    assert smile[48, 0] < -0.02 < 0.02 < smile[54, 0] and smile[[48, 54], 1].max() < -0.02
    assert opened[[57, 66], 1].min() > 0.1 and abs(opened[[51, 62], 1]).max() < 0.02 and opened[8, 1] > 0.1
    assert blink[[37, 38, 43, 44], 1].min() > 0.01 and abs(blink[[36, 39, 42, 45], 1]).max() < 0.015
    assert amount("identity", "jaw")[4, 0] < -0.01 and abs(amount("identity", "jaw")[36]).max() < 1e-6
    assert amount("identity", "nose_height")[30, 2] > 0.02


@pytest.mark.parametrize("kind", ["identity", "expression"])
def test_modes_are_even(kind: str) -> None:
    for modes in head.identities() if kind == "identity" else head.expressions():
        assert modes.moves.dtype == np.float32 and np.isfinite(modes.moves).all()
    skin = (head.identities() if kind == "identity" else head.expressions())[0]
    np.testing.assert_allclose(skin.moves[:, :, ::-1] * [-1, 1, 1], skin.moves, atol=1e-6)
