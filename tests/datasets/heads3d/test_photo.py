"""Photographs: the same for the same number, turned as they say, and with landmarks that are seen or hidden."""

import numpy as np
import pytest

from uld.datasets.heads3d import photo as room
from uld.datasets.heads3d.photo import Photo, photo


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return [photo(0, 7 * index, 64) for index in range(60)]


def test_a_photograph_depends_on_seed_and_number_only(photos: list[Photo]) -> None:
    room._person.cache_clear()
    again, other, elsewhere = photo(0, 14, 64), photo(0, 15, 64), photo(1, 14, 64)
    np.testing.assert_array_equal(again.image, photos[2].image)
    np.testing.assert_array_equal(again.xy, photos[2].xy)
    assert (again.image != other.image).any() and (again.image != elsewhere.image).any()
    assert again.image.shape == (64, 64, 3) and again.image.dtype == np.uint8


def test_a_person_keeps_its_shape_and_colours() -> None:
    one, same = (room._person(0, 3) for _ in range(2))
    assert one is same
    first, second = room._person(0, 4), room._person(0, 5)
    assert abs(first.sheets[0] - second.sheets[0]).max() > 0.02 and (first.looks.skin != second.looks.skin).any()


def test_larger_is_the_same_scene(photos: list[Photo]) -> None:
    large = photo(0, 21, 128)
    np.testing.assert_allclose((large.xy + 0.5) / 2, photos[3].xy + 0.5, atol=1e-3)
    assert large.yaw == photos[3].yaw


def test_turns() -> None:
    point = np.array([[0.0, 0.9, 1.0], [0.0, -0.1, 0.0]])  # ahead of the neck, and above it
    np.testing.assert_allclose(room._turn(point, 90, 0, 0)[0], [1, 0.9, 0], atol=1e-9)  # to the right
    np.testing.assert_allclose(room._turn(point, 0, 30, 0)[0], [0, 0.4, np.sqrt(0.75)], atol=1e-9)  # upwards
    np.testing.assert_allclose(room._turn(point, 0, 0, 90)[1], [1, 0.9, 0], atol=1e-9)  # leans to the right
    shoulder = np.array([[1.0, 1.8, 0.0]])
    assert 0 < -room._turn(shoulder, 90, 0, 0)[0, 2] < np.sin(np.deg2rad(45))


def test_yaw_and_visibility_go_together(photos: list[Photo]) -> None:
    yaw = np.array([one.yaw for one in photos])
    assert yaw.min() < -75 and yaw.max() > 75
    for one in photos:
        nose, ears = one.xy[30, 0], one.xy[[0, 16], 0].mean()
        if abs(one.yaw) > 15:
            assert np.sign(nose - ears) == np.sign(one.yaw)
        left, right = one.visible[36:42].mean(), one.visible[42:48].mean()
        if one.yaw > 75:
            assert left > 0.9 and right < 0.4
        if one.yaw < -75:
            assert right > 0.9 and left < 0.4
        if abs(one.yaw) < 20:
            assert one.visible[27:].mean() > 0.9


def test_faces_fill_the_picture(photos: list[Photo]) -> None:
    assert all((one.xy > -3).all() and (one.xy < 67).all() for one in photos)
    height = [np.ptp(one.xy[:, 1]) for one in photos]
    assert min(height) > 16 and max(height) < 45
    assert min(one.image.std() for one in photos) > 8
