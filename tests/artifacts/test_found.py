"""`Found` by hand, and through the file that holds it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from uld.artifacts.found import Found, joined
from uld.artifacts.predictions import Predictions, Warped, read_predictions, write_predictions

NAN = np.nan
XY = np.array([[[1, 2], [NAN, NAN]], [[3, 4], [5, 6]], [[NAN, NAN], [NAN, NAN]]], np.float32)
SCORE = np.array([[0.9, NAN], [0.8, 0.7], [NAN, NAN]], np.float32)
DENSE = np.array([[[1, 1], [2, 2]], [[3, 3], [4, 4]], [[5, 5], [6, 6]]], np.float32)
DENSE_SCORE = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], np.float32)


def found(posed: bool = False) -> Found:
    """Three images, two landmarks: one is detected, both are, and none."""
    plain = Found(XY, SCORE, DENSE, DENSE_SCORE, points=np.array([1, 4, 0]))
    return replace(plain, pose=np.array([2, 0, 1]), pose_margin=np.array([0, 0.5, 1], np.float32)) if posed else plain


def same(one: Found, other: Found) -> None:
    assert one.given().keys() == other.given().keys()
    for name, value in one.given().items():
        assert value.dtype == other.given()[name].dtype, name
        np.testing.assert_array_equal(value, other.given()[name], err_msg=name)


def test_filled_by_hand() -> None:
    one = found()
    assert len(one) == 3
    np.testing.assert_array_equal(one.filled_xy, [[[1, 2], [2, 2]], [[3, 4], [5, 6]], [[5, 5], [6, 6]]])
    np.testing.assert_array_equal(one.filled_score, np.float32([[0.9, 0.2], [0.8, 0.7], [0.5, 0.6]]))
    assert one.filled_xy.dtype == one.filled_score.dtype == np.float32


def test_filled_leaves_what_nothing_matched() -> None:
    absent = Found.absent(2, 3)
    assert absent.filled_xy.shape == (2, 3, 2) and np.isnan(absent.filled_xy).all()
    assert absent.filled_score.shape == (2, 3) and np.isnan(absent.filled_score).all()
    assert absent.given().keys() == {"xy", "score", "dense_xy", "dense_score"}


@pytest.mark.parametrize("posed", [False, True])
def test_some_of_the_images(posed: bool) -> None:
    some = found(posed).take(np.array([2, 0, 2]))
    np.testing.assert_array_equal(some.dense_xy, DENSE[[2, 0, 2]])
    np.testing.assert_array_equal(some.points, [0, 1, 0])
    assert (some.pose is None) == (not posed)
    if posed:
        np.testing.assert_array_equal(some.pose, [1, 2, 1])
        np.testing.assert_array_equal(some.pose_margin, np.float32([1, 0, 1]))
    same(some.take(np.array([1])), found(posed).take(np.array([0])))
    assert len(found(posed).take(np.empty(0, np.int64))) == 0


def test_put_among_others() -> None:
    index = np.array([4, 1, 3])
    spread = found(posed=True).put(index, 6)
    assert spread.given().keys() == {"xy", "score", "dense_xy", "dense_score"}  # points and poses are of all or none
    for name in spread.given():
        value = getattr(spread, name)
        np.testing.assert_array_equal(value[index], getattr(found(), name))
        assert np.isnan(value[[0, 2, 5]]).all()
    np.testing.assert_array_equal(found().xy, XY)  # and nothing is written into the old arrays
    same(found().put(np.arange(3), 3), replace(found(), points=None))


@pytest.mark.parametrize("posed", [False, True])
def test_parts_are_joined_in_order(posed: bool) -> None:
    whole = found(posed)
    parts = [whole.take(np.array(index, np.int64)) for index in ([0], [], [1, 2])]
    same(joined(parts), whole)
    same(joined([whole]), whole)


def test_positions_are_moved_and_nothing_else() -> None:
    moved = found(posed=True).placed(lambda xy: 2 * xy + 1)
    np.testing.assert_array_equal(moved.xy, 2 * XY + 1)
    np.testing.assert_array_equal(moved.dense_xy, 2 * DENSE + 1)
    same(replace(moved, xy=XY, dense_xy=DENSE), found(posed=True))


@pytest.mark.parametrize("posed", [False, True])
def test_through_the_file(tmp_path: Path, posed: bool) -> None:
    names = np.array(["a.png", "größe/b c.png", "NA"], dtype=object)
    split = np.array(["train", "test", "test"], dtype=object)
    warped = Warped(np.array([1, 2]), np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2))
    write_predictions(tmp_path / "p.h5", Predictions(names, split, found(posed), warped))
    got = read_predictions(tmp_path / "p.h5")
    same(got.found, found(posed))
    assert got.images.tolist() == names.tolist() and got.split.tolist() == split.tolist()
    np.testing.assert_array_equal(got.warped.rows, warped.rows)
    np.testing.assert_array_equal(got.warped.xy, warped.xy)
    write_predictions(tmp_path / "again.h5", got)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "p.h5").read_bytes()
