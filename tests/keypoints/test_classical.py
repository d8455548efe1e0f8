"""SIFT and ORB on blobs and corners whose places are known; suppression against a plain loop."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from uld.base import params
from uld.base.errors import ParamsError
from uld.keypoints.classical import Classical, ClassicalParams, anms

BOTH = pytest.mark.parametrize("detector", ["sift", "orb"])
SCALES = pytest.mark.parametrize("scale", [1, 2, 4])


def classical(detector: str, **changes: Any) -> Classical:
    settings = {"detector": detector, "points": 500, "scale": 1, "robust": 0.9}
    return Classical(ClassicalParams(**settings | changes))


def rgb(image: np.ndarray) -> Tensor:
    """(S, S) -> (1, 3, S, S)."""
    return torch.from_numpy(image.astype(np.float32)).expand(1, 3, *image.shape)


def texture(size: int, seed: int = 0) -> Tensor:
    """Smooth noise that fills [0, 1]."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((size, size)), (0, 0), 1.5)
    return rgb((noise - noise.min()) / np.ptp(noise))


def nearest(points: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Distance from each of `xy` (N, 2) to the nearest point."""
    return np.linalg.norm(points[None, :, :2] - xy[:, None], axis=2).min(axis=1)


# --- places ---


@SCALES
def test_sift_finds_the_centres_of_blobs(scale: int) -> None:
    centres = np.array([[14.3, 17.6], [45.0, 12.25], [30.75, 31.1], [12.2, 49.5], [50.4, 47.8]])
    y, x = np.mgrid[:64, :64]
    image = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 2.5**2)) for a, b in centres)
    (found,) = classical("sift", scale=scale)(rgb(np.clip(image, 0, 1)))
    assert nearest(found, centres).max() < 0.05


@SCALES
def test_orb_finds_corners(scale: int) -> None:
    image = np.zeros((64, 64))
    image[14:41, 20:50] = 1
    corners = np.array([[20, 14], [49, 14], [20, 40], [49, 40]])
    (found,) = classical("orb", scale=scale)(rgb(cv2.GaussianBlur(image, (0, 0), 0.5)))
    gap = np.abs(found[None, :, :2] - corners[:, None]).max(axis=2).min(axis=1)
    assert gap.max() < 1.001  # in x and in y


def test_orb_leaves_out_straight_edges() -> None:
    """On their steps FAST fires, and Harris says edge: a negative response."""
    y, x = np.mgrid[:64, :64]
    edge = (x - 32) * np.cos(np.deg2rad(20)) + (y - 32) * np.sin(np.deg2rad(20)) > 0
    assert len(cv2.ORB.create(edgeThreshold=4).detect(edge.astype(np.uint8) * 200, None)) > 10
    assert len(classical("orb")(rgb(edge * 200 / 255))[0]) == 0


def test_an_8_bit_image_is_looked_at_as_it_is() -> None:
    image = np.rint(255 * texture(64)[0, 0].numpy()).astype(np.uint8)
    want = {p.response for p in cv2.SIFT.create(enable_precise_upscale=True).detect(image, None)}
    (found,) = classical("sift")(rgb(image / 255))
    assert len(found) > 20 and set(found[:, 2].tolist()) <= want


@BOTH
@SCALES
@pytest.mark.parametrize("size", [64, 75])
def test_a_mirrored_image_has_mirrored_points(detector: str, scale: int, size: int) -> None:
    image = texture(size)
    find = classical(detector, scale=scale, points=5000)
    (plain,) = find(image)
    for axis, dim in ((0, 3), (1, 2)):
        (mirrored,) = find(image.flip(dim))
        mirrored[:, axis] = size - 1 - mirrored[:, axis]
        distance = nearest(mirrored, plain[:, :2])
        assert len(plain) > 20 and abs(len(mirrored) - len(plain)) < 0.1 * len(plain)
        assert np.median(distance) < 0.05 and np.quantile(distance, 0.8) < 0.2


# --- which, and in what order ---


@BOTH
def test_sorted_by_positive_score_one_a_pixel(detector: str) -> None:
    for found in classical(detector, scale=2)(torch.cat([texture(64, seed) for seed in range(3)])):
        assert found.dtype == np.float32 and found.shape[1] == 3 and len(found) > 20
        assert (np.diff(found[:, 2]) <= 0).all() and (found[:, 2] > 0).all()
        assert len(np.unique(np.rint(found[:, :2]), axis=0)) == len(found)


@BOTH
def test_fewer_points_are_the_chosen_of_all(detector: str) -> None:
    (every,) = classical(detector)(texture(64))
    (few,) = classical(detector, points=12)(texture(64))
    chosen = np.sort(anms(every[:, :2], every[:, 2], 12, 0.9))
    np.testing.assert_array_equal(few, every[chosen])


@BOTH
def test_spread_more_than_the_strongest_are(detector: str) -> None:
    image = texture(96).clone()
    image[:, :, :, 48:] = 0.5 + 0.3 * (image[:, :, :, 48:] - 0.5)  # the right half is weak
    (every,) = classical(detector, scale=2)(image)
    (few,) = classical(detector, scale=2, points=16)(image)
    assert (few[:, 0] > 50).sum() >= 3 > (every[:16, 0] > 50).sum()


@BOTH
@pytest.mark.parametrize("size", [8, 64])
def test_a_flat_image_has_no_points(detector: str, size: int) -> None:
    (found,) = classical(detector, scale=2)(torch.full((1, 3, size, size), 0.5))
    assert found.shape == (0, 3) and found.dtype == np.float32


@BOTH
def test_the_same_whatever_the_batch(detector: str) -> None:
    images = torch.cat([texture(64, 1), torch.zeros(1, 3, 64, 64), texture(64, 2)])
    find = classical(detector, scale=2)
    together = find(images)
    assert [len(found) > 0 for found in together] == [True, False, True]
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(find(image[None])[0], found)


# --- descriptors ---


def described(detector: Classical, image: Tensor, *xy: tuple[float, float]) -> np.ndarray:
    """(P, 4, 4, 8): rows, columns, and bins of the gradient's direction, of which 0 is to the right."""
    (found,) = detector.describe(image, [np.array(xy, np.float32)])
    assert found.shape == (len(xy), 128) and found.dtype == np.float32
    return found.reshape(-1, 4, 4, 8)


@BOTH
@SCALES
def test_each_point_has_a_descriptor_of_unit_length(detector: str, scale: int) -> None:
    images, find = (
        torch.cat([texture(64, 1), torch.zeros(1, 3, 64, 64), texture(64, 2)]),
        classical(detector, scale=scale),
    )
    points = find(images)
    found = find.describe(images, points)
    assert [len(one) for one in found] == [len(one) for one in points] and found[1].shape == (0, 128)
    for image, own, one in zip(images, points, found, strict=True):
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(find.describe(image[None], [own])[0], one)  # whatever the batch
    corners = described(find, images[:1], (0, 0), (63, 0), (0, 63), (63, 63))
    np.testing.assert_allclose(np.linalg.norm(corners.reshape(4, 128), axis=1), 1, atol=1e-6)
    assert (described(find, images[1:2], (30, 30)) == 0).all()  # nothing to be seen


@SCALES
@pytest.mark.parametrize(("dx", "dy", "bin"), [(1, 0, 0), (0, -1, 2), (-1, 0, 4), (0, 1, 6)])
def test_descriptors_are_upright(scale: int, dx: int, dy: int, bin: int) -> None:
    y, x = np.mgrid[:64, :64]
    (found,) = described(classical("sift", scale=scale), rgb(0.5 + (dx * (x - 32) + dy * (y - 32)) / 80), (30, 33))
    assert (found[:, :, bin].min() > 0.1) and np.delete(found, bin, axis=2).max() < 0.02


@SCALES
def test_descriptors_are_of_the_point_and_a_quarter_of_the_image(scale: int) -> None:
    """The two sides of a tent meet at the point, so histograms on one side of it mirror those on the other."""
    y, x = np.mgrid[:64, :64]
    detector = classical("sift", scale=scale)
    (found,) = described(detector, rgb(np.abs(x - 28) / 64), (28, 20))
    assert found[:, :2, 4].min() > 0.2 and found[:, 2:, 0].min() > 0.2
    np.testing.assert_allclose(found[:, ::-1, [4, 0]], found[:, :, [0, 4]], atol=0.03)
    (found,) = described(detector, rgb(np.abs(y - 36) / 64), (28, 36))
    np.testing.assert_allclose(found[::-1, :, [6, 2]], found[:, :, [2, 6]], atol=0.03)
    beyond = [described(detector, rgb(np.clip(np.abs(x - 28) - gap, 0, None) / 64), (28, 20)) for gap in (6, 18)]
    assert beyond[0].any() and not beyond[1].any()


@SCALES
def test_what_looks_alike_has_near_descriptors(scale: int) -> None:
    image = texture(96, 3).clone()
    image[..., 56:88, 60:92] = image[..., 8:40, 4:36]
    detector = classical("sift", scale=scale)
    here, there, other = described(detector, image, (20, 24), (76, 72), (28, 24)).reshape(3, 128)
    assert np.linalg.norm(here - there) < 0.1 < 0.5 < np.linalg.norm(here - other)


# --- adaptive non-maximal suppression ---


def loop(xy: np.ndarray, response: np.ndarray, robust: float) -> list[float]:
    """Suppression radius of each point."""
    radii = []
    for i, here in enumerate(xy):
        radius = np.inf
        for j, there in enumerate(xy):
            if response[i] < robust * response[j]:
                radius = min(radius, float(np.hypot(*(here - there))))
        radii.append(radius)
    return radii


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(0, 30),
    points=st.integers(1, 40),
    robust=st.sampled_from([0.5, 0.9, 1.0]),
    levels=st.integers(1, 9),
)
def test_anms_equals_the_loop(seed: int, count: int, points: int, robust: float, levels: int) -> None:
    rng = np.random.default_rng(seed)
    xy, response = rng.integers(0, 12, (count, 2)).astype(float), rng.integers(1, levels + 1, count).astype(float)
    radii = loop(xy, response, robust)
    want = sorted(range(count), key=lambda i: (-radii[i], -response[i], i))[:points]
    assert anms(xy, response, points, robust).tolist() == want


def test_anms_prefers_lone_points_to_a_strong_crowd() -> None:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    crowd = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lone = np.array([[40, 0], [0, 40], [-40, 0], [0, -40]], float)
    xy, response = np.concatenate([crowd, lone]), np.concatenate([np.linspace(9, 8, 20), np.ones(4)])
    assert set(anms(xy, response, 5, 1.0)) == {0, 20, 21, 22, 23}


def test_anms_spares_what_is_almost_as_strong() -> None:
    xy, response = np.array([[0.0, 0], [1, 0], [9, 0]]), np.array([1.0, 0.95, 0.5])
    assert anms(xy, response, 2, 0.9).tolist() == [0, 1]  # 0.9 < 0.95: its radius is infinite
    assert anms(xy, response, 2, 1.0).tolist() == [0, 2]  # radii 1 and 8


# --- params ---


@pytest.mark.parametrize("change", [{"detector": "surf"}, {"points": 0}, {"scale": 0}, {"robust": 0}, {"robust": 1.1}])
def test_params_out_of_range(change: dict[str, Any]) -> None:
    block = {"detector": "sift", "points": 30, "scale": 2, "robust": 0.9}
    assert params.build(ClassicalParams, block, "points.classical").points == 30
    with pytest.raises(ParamsError, match=rf"points.classical.{next(iter(change))}: "):
        params.build(ClassicalParams, block | change, "points.classical")
