"""Places of landmarks: the cost of distance, and twins that only their places tell apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from uld.landmarks import places
from uld.landmarks.detect import DetectParams
from uld.landmarks.seen import Seen
from uld.sources.views import View

GRID = 16
DETECT = DetectParams(radius=1, threshold=0.3, min_points=0, max_points=8, heat_weight=0.0)
PLAIN = View(np.eye(2, 3), flipped=False)
HOME, TWIN = np.array([4, 4]), np.array([11, 4])


def test_cost_is_the_squared_distance_in_sides_of_the_map() -> None:
    found = places.cost(np.array([[1, 2], [0, 0.5]], np.float32), 4, 10)
    assert found.shape == (2, 4, 4)
    assert found[0, 2, 1] == 0 and found[0, 2, 3].item() == pytest.approx(10 * 4 / 16)
    assert found[1, 3, 2].item() == pytest.approx(10 * (4 + 6.25) / 16)


def pose(images: int, home: float, twin: float, shift: float = 0) -> Seen:
    """Images with two parts, of cosines `home` and `twin` to (1, 0, 0), and heat everywhere."""
    y, x = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
    like = torch.zeros(GRID, GRID)
    for (at_x, at_y), cosine in ((HOME, home), (TWIN, twin)):
        like += cosine * torch.exp(-((x - at_x - shift) ** 2 + (y - at_y) ** 2) / 4)
    maps = torch.stack([like, (1 - like.square()).clamp_min(0).sqrt(), torch.zeros_like(like)])
    maps = F.normalize(maps, dim=0).expand(images, -1, -1, -1)
    ones = torch.ones(images, GRID, GRID)
    return Seen(np.arange(images), PLAIN, maps.half(), ones.bool(), ones[:, None])


CENTROIDS = np.tile(np.array([[[1, 0, 0]]], np.float32), (3, 1, 1))
POSES = np.array([[0.0], [1], [2]], np.float32)  # a line, from the first


def both(one: Seen, other: Seen) -> Seen:
    """The images of two poses as those of one."""
    assert one.heat is not None and other.heat is not None
    joined = [torch.cat(pair) for pair in ((one.descriptors, other.descriptors), (one.inside, other.inside))]
    return Seen(np.arange(len(joined[0])), PLAIN, *joined, torch.cat([one.heat, other.heat]))


def carry(weight: float, kept: list[Seen] | None = None) -> np.ndarray:
    kept = kept or [pose(9, 0.9, 0.8), both(pose(4, 0.8, 0.9, 1), pose(3, 0.9, 0.8, 1)), pose(4, 0.7, 0.9, 2)]
    return places.carry([[one] for one in kept], CENTROIDS, POSES, DETECT, weight, 1e6)[1][0, :, 0]


def test_places_go_on_from_pose_to_pose() -> None:
    np.testing.assert_allclose(carry(10), HOME + np.array([[0, 0], [1, 0], [2, 0]]), atol=0.3)


def test_without_weight_a_twin_takes_over() -> None:
    found = carry(1e-6)
    np.testing.assert_allclose(found[0], HOME, atol=0.3)
    np.testing.assert_allclose(found[1], HOME + np.array([1 + 7 * 4 / 7, 0]), atol=0.3)  # four images of seven
    np.testing.assert_allclose(found[2], TWIN + np.array([2, 0]), atol=0.3)


def test_the_first_pose_is_the_one_whose_images_agree() -> None:
    """In the largest pose they do not: most show `HOME`, some `TWIN`."""
    mixed = both(pose(9, 0.9, 0.8), pose(4, 0.8, 0.9))
    np.testing.assert_allclose(carry(10, [mixed, pose(6, 0.8, 0.9), mixed]), np.tile(TWIN, (3, 1)), atol=0.3)


def test_of_few_images_agreement_says_little() -> None:
    mixed = both(pose(9, 0.9, 0.8), pose(4, 0.8, 0.9))
    np.testing.assert_allclose(carry(10, [mixed, pose(2, 0.8, 0.9), mixed]), np.tile(HOME, (3, 1)), atol=0.3)


def test_the_first_pose_is_one_that_tells_landmarks_apart() -> None:
    """Where two landmarks are one, images agree as well as they can."""
    rng = np.random.default_rng(0)
    one = [np.zeros((6, 2, 2), np.float32)]  # of one flip
    apart = [np.array([[0, 0], [5, 0]]) + rng.normal(0, 0.5, (6, 2, 2))]
    mixed = [apart[0][:, ::-1] * np.tile([[[1]], [[0]]], (3, 1, 1)) + apart[0] * np.tile([[[0]], [[1]]], (3, 1, 1))]
    few = [np.array([[[0, 0], [9, 0]]], np.float32)]
    assert places._first([one, mixed, apart, few]) == 2
    assert places._first([one, few, [np.concatenate([apart[0], apart[0]])], apart, mixed]) == 3
    assert places._first([one]) == 0


NONE = pose(4, 0.8, 0.9).take(np.empty(0, np.int64))


def test_a_pose_without_images_looks_as_its_neighbour() -> None:
    kept = [[seen(turned(0), turned(1.2))], [NONE]]
    looks, _ = places.carry(
        kept, np.stack([turned(0), turned(1.2)])[:, None].astype(np.float32), POSES[:2], DETECT, 3, 0
    )
    np.testing.assert_array_equal(looks[1], looks[0])


@pytest.mark.filterwarnings("error")
def test_a_landmark_that_no_image_of_a_pose_shows_looks_as_in_its_neighbour() -> None:
    kept = [[seen(turned(0), turned(1.2))], [seen(turned(0.2), turned(1.4))]]
    own = np.stack([turned(0), np.zeros(3)])[:, None].astype(np.float32)
    looks, xy = places.carry(kept, own, POSES[:2], DETECT, 3, 0)
    np.testing.assert_allclose(xy[0, :, 0], np.tile(HOME, (2, 1)), atol=0.3)
    np.testing.assert_allclose(looks[:, 0] @ turned(0), np.cos([0, 0.2]), atol=0.06)


def test_a_pose_without_images_keeps_the_places_of_its_neighbour() -> None:
    np.testing.assert_allclose(carry(10, [pose(9, 0.9, 0.8), NONE, pose(4, 0.8, 0.9)]), np.tile(HOME, (3, 1)), atol=0.3)


def test_heat_counts_too() -> None:
    kept = pose(4, 0.85, 0.85)
    assert kept.heat is not None
    hot = kept.heat.clone()
    hot[..., :8] = 0.1
    leaning = replace(DETECT, heat_weight=0.1)
    _, found = places.carry([[replace(kept, heat=hot)]], CENTROIDS[:1], POSES[:1], leaning, 1e-6, 1e6)
    np.testing.assert_allclose(found[0, 0, 0], TWIN, atol=0.3)


def seen(home: np.ndarray, twin: np.ndarray, images: int = 4) -> Seen:
    """Images with a part at `HOME` and one at `TWIN`, which look like these unit vectors (3,), and heat everywhere."""
    y, x = torch.meshgrid(torch.arange(float(GRID)), torch.arange(float(GRID)), indexing="ij")
    maps = torch.tensor([0.0, 0, 0.3])[:, None, None].expand(3, GRID, GRID).clone()
    for (at_x, at_y), look in ((HOME, home), (TWIN, twin)):
        maps += torch.from_numpy(look).float()[:, None, None] * torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 4)
    ones = torch.ones(images, GRID, GRID)
    maps = F.normalize(maps, dim=0).expand(images, -1, -1, -1)
    return Seen(np.arange(images), PLAIN, maps.half(), ones.bool(), ones[:, None])


def turned(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle), 0])


def test_looks_are_carried_too() -> None:
    """A part changes its look from pose to pose, and its twin comes to look as it did: the landmark stays."""
    kept = [[seen(turned(0), turned(1.2))], [seen(turned(0.5), turned(0.2))], [seen(turned(1), turned(0.4))]]
    own = np.tile(turned(0), (3, 1, 1)).astype(np.float32)  # and what later poses found for themselves is the twin
    looks, xy = places.carry(kept, own, POSES, DETECT, 3, 0)
    np.testing.assert_allclose(xy[0, :, 0], np.tile(HOME, (3, 1)), atol=0.3)
    np.testing.assert_allclose(looks[:, 0] @ turned(0), np.cos([0, 0.5, 1]), atol=0.06)
    np.testing.assert_array_equal(own, np.tile(turned(0), (3, 1, 1)).astype(np.float32))  # and these are not touched


def test_a_look_counts_for_matches_where_it_starts() -> None:
    kept = [[seen(turned(0), turned(2), images=6)], [seen(turned(0.6), turned(2), images=6)]]
    own = np.tile(turned(0), (2, 1, 1)).astype(np.float32)
    free, kept_back = (places.carry(kept, own, POSES[:2], DETECT, 10, prior)[0][1, 0] for prior in (0, 6))
    np.testing.assert_allclose(
        kept_back, (free + places.carry(kept, own, POSES[:2], DETECT, 10, 6)[0][0, 0]) / 2, atol=0.02
    )


def test_flips_have_places_of_their_own_and_share_looks() -> None:
    """The second flip has no image of the first pose: there it is where its other poses have it."""
    first, second = seen(turned(0), turned(2), images=8), seen(turned(2), turned(0), images=4)
    kept = [[first, NONE], [first.take(np.arange(3)), second], [first.take(np.arange(3)), second]]
    own = np.tile(turned(0), (3, 1, 1)).astype(np.float32)
    looks, xy = places.carry(kept, own, POSES, DETECT, 10, 0)
    np.testing.assert_allclose(xy[0, :, 0], np.tile(HOME, (3, 1)), atol=0.3)
    np.testing.assert_allclose(xy[1, :, 0], np.tile(TWIN, (3, 1)), atol=0.3)
    np.testing.assert_allclose(looks[:, 0] @ turned(0), 1, atol=0.06)
