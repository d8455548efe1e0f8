"""Centroids that move to their exemplars, landmarks that do not stay put, and clusters found again by their labels."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.methods.conftest import GRID, MIRROR, PARTS, PLAIN, TURN, VIEWS, Planted
from uld.artifacts.labels import Labels
from uld.geometry import sampling
from uld.landmarks.recentre import equivariance_error, means_at, recentre
from uld.landmarks.seen import keep, matches
from uld.sources.views import View

ROWS = np.array([1, 2, 4, 7, 8, 11])


@pytest.fixture
def planted() -> Planted:
    return Planted(14)


def middles(planted: Planted) -> np.ndarray:
    """(PARTS, D): the mean of each part, found by hand in the first image."""
    maps = planted.describe(np.array([0]), PLAIN)[0].flatten(1).T.numpy()
    part = [(maps[:, 1 + k] > 0).nonzero()[0] for k in range(PARTS)]
    return np.stack([maps[cells].mean(0) for cells in part])


# --- what is kept ---


@pytest.mark.parametrize("view", VIEWS, ids=["plain", "mirror", "turn"])
def test_kept_descriptors_are_matched_in_their_view(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, view: View
) -> None:
    monkeypatch.setenv("ULD_BATCH", "4")
    kept = keep(planted, ROWS, view)
    assert planted.asked == [4, 2] and kept.descriptors.dtype == torch.float16
    assert torch.equal(kept.inside, planted.inside(ROWS, view))
    torch.testing.assert_close(kept.descriptors.float(), planted.describe(ROWS, view), atol=1e-3, rtol=0)
    xy, found = matches(kept, middles(planted))
    truth = planted.to_image(ROWS, planted.centres[ROWS], PLAIN)
    assert np.abs(planted.to_image(ROWS, xy, view) - truth).max() < 3 * 0.45
    assert found.shape == (6, PARTS, 1 + 3 * PARTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, atol=1e-5)
    at = F.normalize(sampling.sample(planted.describe(ROWS, view), torch.from_numpy(xy)), dim=2)
    np.testing.assert_allclose(found, at, atol=2e-3)


# --- recentring ---


class Two:
    """Images of G x G cells that all show A at (3, 4) and, a third of them, its double B at (10, 11).

    A is e1, B lies 30 degrees from it towards e2, and all else is e3; it is seen as it is and mirrored.
    """

    grid, detects = GRID, False
    a = np.array([1, 0, 0], np.float32)
    b = np.array([np.cos(np.pi / 6), 0.5, 0], np.float32)

    def describe(self, rows: np.ndarray, view: View) -> torch.Tensor:
        maps = torch.zeros(len(rows), 3, GRID, GRID)
        maps[:, 2] = 1
        maps[:, :, 4, 3] = torch.from_numpy(self.a)
        maps[torch.from_numpy(rows % 3 == 0), :, 11, 10] = torch.from_numpy(self.b)
        return maps.flip(3) if view.flipped else maps

    def inside(self, rows: np.ndarray, view: View) -> torch.Tensor:
        return torch.ones(len(rows), GRID, GRID, dtype=torch.bool)


def mixed(towards_b: float) -> np.ndarray:
    """(1, 3): between A and B; from 0.5 on it is nearer to B."""
    angle = towards_b * np.pi / 6
    return np.array([[np.cos(angle), np.sin(angle), 0]], np.float32)


@pytest.mark.parametrize("rows", [np.arange(30), np.arange(90)])
def test_a_mixed_mean_moves_to_the_part_that_most_images_show(rows: np.ndarray) -> None:
    """It lies nearer to B, and is A's after two steps: a third of the first matches is B, then none."""
    source: Any = Two()
    kept = [keep(source, rows, PLAIN)]
    start = mixed(0.6)
    np.testing.assert_array_equal(recentre(kept, start, 0), start)
    third = np.mean(rows % 3 == 0)
    once = recentre(kept, start, 1)
    np.testing.assert_allclose(once, [third * source.b + (1 - third) * source.a], atol=1e-3)  # and not of unit length
    np.testing.assert_allclose(recentre(kept, start, 2), [source.a], atol=1e-3)
    xy, _ = matches(kept[0], recentre(kept, start, 5))
    np.testing.assert_allclose(xy[:, 0], np.tile([[3.0, 4.0]], (len(rows), 1)), atol=1e-3)


def test_both_flips_count_the_same() -> None:
    source: Any = Two()
    plain, mirror = keep(source, np.array([0, 3, 6]), PLAIN), keep(source, np.array([1, 2, 4]), MIRROR)
    found = recentre([plain, mirror], mixed(0.6), 1)  # B in the first three, A in the others
    np.testing.assert_allclose(found, [(source.a + source.b) / 2], atol=1e-3)


# --- landmarks that stay put ---


def with_turned(source: Planted, *turned: View) -> Any:
    """The same source, by which views landmarks are told to stay put."""
    source.views.turned = list(turned)
    return source


def test_what_follows_every_turn_is_where_it_was(planted: Planted) -> None:
    plain = keep(planted, ROWS, PLAIN)
    off = equivariance_error(with_turned(planted, TURN), plain, middles(planted))
    assert off.shape == (PARTS,)
    np.testing.assert_allclose(off, 0, atol=1e-3)
    several = with_turned(planted, TURN, MIRROR, TURN)
    np.testing.assert_allclose(equivariance_error(several, plain, middles(planted)), 0, atol=1e-3)
    np.testing.assert_array_equal(equivariance_error(with_turned(planted), plain, middles(planted)), np.zeros(PARTS))


class Jumping(Planted):
    """In the turned view of odd images, part 0 and part 3 look like each other."""

    def describe(self, rows: np.ndarray, view: View) -> torch.Tensor:
        maps = super().describe(rows, view)
        odd = torch.from_numpy(rows % 2 == 1)
        if view is TURN:
            swap = [0, 4, 2, 3, 1, *range(5, 1 + 3 * PARTS)]
            for first in (5, 5 + PARTS):
                swap[first], swap[first + 3] = swap[first + 3], swap[first]
            maps[odd] = maps[odd][:, swap]
        return maps


def test_what_jumps_is_off_by_as_far_as_it_jumps() -> None:
    source = Jumping(14)
    plain = keep(source, ROWS, PLAIN)
    off = equivariance_error(with_turned(source, TURN), plain, middles(source))
    jump = np.linalg.norm(source.centres[:, 0] - source.centres[:, 3], axis=1)  # in cells
    want = jump[ROWS] * (ROWS % 2)
    np.testing.assert_allclose(off[[0, 3]], want.mean(), atol=0.25)
    np.testing.assert_allclose(off[[1, 2]], 0, atol=1e-3)
    half = equivariance_error(with_turned(source, TURN, MIRROR), plain, middles(source))  # the mean of all views
    np.testing.assert_allclose(half, off / 2, atol=2e-3)


# --- clusters found again ---


def some(*lines: tuple[int, int, int, float, float], source: Planted) -> Labels:
    """Lines of image, view, label and cell x, y in that view."""
    image, view, number, x, y = map(np.array, zip(*lines, strict=True))
    cells = np.stack([x, y], 1).astype(np.float32)
    xy = np.stack(
        [source.to_image(image[[i]], cells[None, [i]], VIEWS[view[i]])[0, 0] for i in range(len(image))]
    )  # fmt: skip
    return Labels(image, view > 0, number, xy, np.ones(len(x), np.float32), np.ones(len(x), bool), 4)


def read(source: Planted, image: int, view: int, x: float, y: float) -> np.ndarray:
    maps = source.describe(np.array([image]), VIEWS[view])
    return F.normalize(sampling.sample(maps, torch.tensor([[[x, y]]])), dim=2)[0, 0].numpy()


def test_means_of_labels_in_both_flips(planted: Planted) -> None:
    lines = [(1, 0, 2, 4.2, 3.9), (2, 0, 0, 10.5, 4), (7, 0, 2, 5, 4.5), (4, 1, 2, 11.25, 3), (7, 1, 0, 3.5, 11)]
    labels = some(*lines, (5, 0, 0, 9, 9), (13, 1, 2, 9, 9), source=planted)  # the last are not kept
    kept = [keep(planted, ROWS, PLAIN), keep(planted, ROWS, MIRROR)]
    found = means_at(kept, planted, labels, 4)
    assert found.shape == (4, 1 + 3 * PARTS) and found.dtype == np.float32
    for number in (0, 2):
        want = np.mean([read(planted, i, v, x, y) for i, v, k, x, y in lines if k == number], axis=0)
        np.testing.assert_allclose(found[number], want, atol=2e-3)
    assert not found[[1, 3]].any()  # no image shows them


def test_means_of_the_parts_are_the_parts(planted: Planted) -> None:
    """Labels at the centres in both flips give the clusters they came from."""
    lines = [
        (int(image), view, part, float(GRID - 1 - x if view else x), float(y))
        for view in (0, 1)
        for image in ROWS
        for part, (x, y) in enumerate(planted.centres[image])
    ]
    kept = [keep(planted, ROWS, view) for view in (PLAIN, MIRROR)]
    found = means_at(kept, planted, some(*lines, source=planted), PARTS)
    np.testing.assert_allclose(found[:, 1 : 1 + PARTS], np.eye(PARTS), atol=0.05)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-3)


def test_no_labels_in_the_kept_images(planted: Planted) -> None:
    labels = some((0, 0, 1, 4, 4), source=planted)
    assert not means_at([keep(planted, ROWS, PLAIN)], planted, labels, 2).any()
