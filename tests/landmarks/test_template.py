"""A template: which image's points it is, its mirror image, and which points of other images belong to it."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tests.methods.conftest import PLAIN
from uld.artifacts.landmarks import Landmarks, read_landmarks, write_landmarks
from uld.base.errors import ULDError
from uld.base.params import build
from uld.landmarks.point_sets import PointSets
from uld.landmarks.template import TemplateParams, choose, match, mirror_map, place

DRIFT = {"transform": "similarity", "outliers": 0.1, "iterations": 50, "tolerance": 1e-4, "beta": 2.0, "stiffness": 2.0}
BLOCK = {"image": None, "drift": DRIFT, "near": 1.0, "share": 0.6, "complete": False}
TEMPLATE = np.array([[4, 4], [11, 4.5], [7.5, 8], [5, 11], [10, 12]], np.float32)


def params(**changes: Any) -> TemplateParams:
    return build(TemplateParams, BLOCK | changes, "template")


def sets(points: list[np.ndarray], score: list[list[float]] | None = None) -> PointSets:
    most = max(map(len, points))
    xy = np.full((len(points), most, 2), np.nan, np.float32)
    height = np.full((len(points), most), np.nan, np.float32)
    for i, one in enumerate(points):
        xy[i, : len(one)] = one
        height[i, : len(one)] = 0.5 if score is None else score[i]
    return PointSets(np.arange(10, 10 + len(points)), PLAIN, xy, height, np.isfinite(height))


# --- the template ---


def test_the_image_with_the_fewest_points_that_are_enough() -> None:
    grid = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), 2).reshape(-1, 2)
    heights = [[0.9] * 2, [0.9, 0.8, 0.7, 0.1], [0.9, 0.8, 0.8, 0.1], [0.99] * 6]
    points = sets([grid[:2], grid[1:5], grid[2:6], grid[:6]], heights)
    row, xy = choose(points, 3, None)
    assert row == 12
    np.testing.assert_array_equal(xy, grid[2:5])  # the surest three
    assert choose(points, 5, None)[0] == 13 and choose(points, 2, None)[0] == 10
    row, xy = choose(points, 3, 11)
    assert row == 11
    np.testing.assert_array_equal(xy, grid[1:4])


def test_templates_that_are_not_there() -> None:
    points = sets([TEMPLATE, TEMPLATE[:2]])
    with pytest.raises(ULDError, match=r"a template of 6 landmarks .* the training image that has most has 5: lower"):
        choose(points, 6, None)
    with pytest.raises(ULDError, match=r"a template of 3 landmarks .* image 11 has 2: lower"):
        choose(points, 3, 11)
    with pytest.raises(ULDError, match="image 5 is no training image"):
        choose(points, 3, 5)


def test_mirror_map_by_hand() -> None:
    """Two eyes, a nose beside the middle, two corners of the mouth; the whole template lies off the middle."""
    xy = np.array([[11, 4], [15, 3.8], [13.3, 6], [12, 9], [14, 8.9]], np.float32)
    assert mirror_map(xy).tolist() == [1, 0, 2, 4, 3]


def test_mirror_maps_turn_back() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 8, 13):
        turns = mirror_map(rng.uniform(0, 16, (count, 2)))
        np.testing.assert_array_equal(turns[turns], np.arange(count))


def test_a_template_is_in_the_file_of_landmarks_and_in_no_other(tmp_path: Any) -> None:
    none = Landmarks.none()
    write_landmarks(tmp_path / "a.h5", none)
    assert read_landmarks(tmp_path / "a.h5").template is None
    with pytest.raises(ULDError, match="no template: let the rounds of mallis_ch4_detector start from"):
        none.known_template()
    write_landmarks(tmp_path / "b.h5", Landmarks(**vars(none) | {"template": TEMPLATE}))
    np.testing.assert_array_equal(read_landmarks(tmp_path / "b.h5").known_template(), TEMPLATE)


# --- the points of an image ---


def test_match_is_of_least_distance_and_one_to_one() -> None:
    """By hand: both points of the template want the same point, and the sum is least where the second one gives way."""
    moved = np.array([[[0.0, 0], [1, 0]], [[0, 0], [9, 9]], [[np.nan] * 2] * 2, [[0, 0], [1, 0]]])
    points = np.array([[[0.6, 0], [9, 0], [1.5, 0]], [[0.2, 0], [np.nan] * 2, [np.nan] * 2], [[0, 0.0]] * 3,
                       [[np.nan] * 2] * 3])  # fmt: skip
    assert match(moved, points, 1.0).tolist() == [[0, 2], [0, -1], [-1, -1], [-1, -1]]
    assert match(moved, points, 0.55).tolist() == [[-1, 2], [0, -1], [-1, -1], [-1, -1]]
    assert match(moved, points[:, :0], 1.0).tolist() == [[-1, -1]] * 4


def test_match_against_all_permutations() -> None:
    from itertools import permutations

    rng = np.random.default_rng(1)
    moved, points = rng.uniform(0, 9, (20, 4, 2)), rng.uniform(0, 9, (20, 5, 2))
    found = match(moved, points, 99.0)
    for one, other, index in zip(moved, points, found, strict=True):
        gap = cdist(one, other)
        best = min(permutations(range(5), 4), key=lambda order: gap[range(4), order].sum())
        assert tuple(index) == best


def test_landmarks_of_images() -> None:
    """Whole, with a point of nothing; a part of the template; too small a part; no points; all points in one place."""
    rng = np.random.default_rng(2)
    moved = (TEMPLATE - 7) * 1.05 + [7.4, 6.8]
    order = [3, 1, 4, 0, 2]
    far = np.array([[1.0, 14]], np.float32)
    few = np.concatenate([moved[:2], rng.uniform(12.5, 15, (2, 2))])
    points = sets([np.concatenate([moved[order], far]), moved[[4, 2, 1]], few, few[:0], np.tile(far, (4, 1))])
    (found,), figures = place([points], TEMPLATE, params())
    known = np.isfinite(found.score)
    assert known.tolist() == [[True] * 5, [False, True, True, False, True], *[[False] * 5] * 3]
    np.testing.assert_allclose(found.xy[0], moved, atol=1e-5)
    np.testing.assert_array_equal(known, found.detected)
    assert figures["aligned"] == 3 / 5 and figures["left_out"] == 3 / 5
    (whole,), _ = place([points], TEMPLATE, params(complete=True))
    assert np.isfinite(whole.xy).all(2).tolist() == [[True] * 5] * 2 + [[False] * 5] * 3
    np.testing.assert_array_equal(whole.detected, found.detected)
    np.testing.assert_allclose(whole.xy[1], moved, atol=0.2)  # also where there was no point
    assert (whole.score[1][~known[1]] == 0).all() and (whole.score[known] == 0.5).all()


def test_the_share_is_of_the_template() -> None:
    points = sets([TEMPLATE[:3], TEMPLATE])
    for share, kept in ((0.6, True), (0.61, False), (0.0, True)):
        (found,), _ = place([points], TEMPLATE, params(share=share))
        assert np.isfinite(found.score).any(1).tolist() == [kept, True]
    (found,), figures = place([sets([TEMPLATE + 60, TEMPLATE[:0]])], TEMPLATE, params(share=0.0))
    assert not np.isfinite(found.score[1]).any() and figures["aligned"] == 0.5


def test_a_template_that_fits_no_image() -> None:
    with pytest.raises(
        ULDError, match=r"no training image has enough points .* raise methods\.\*\.cluster\.template\.near"
    ):
        place([sets([TEMPLATE[:2], TEMPLATE[:1]])], TEMPLATE, params())
