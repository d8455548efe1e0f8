"""Which heat maps become one landmark, and what becomes of their labels."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.conftest import PARTS, PLAIN, Planted
from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.landmarks.merge import (
    CHANNEL,
    Overlaps,
    continued,
    fire_together,
    merged,
    overlaps,
    populations,
    populous,
    relabelled,
)


def labels_of(*lines: tuple[int, int], count: int, flipped: bool = False) -> Labels:
    """(image, label) of each; x says which line it is."""
    image, label = (np.array(column) for column in zip(*lines, strict=True))
    xy = np.stack([np.arange(len(image)), np.zeros(len(image))], 1).astype(np.float32)
    score = np.linspace(0, 1, len(image)).astype(np.float32)
    return Labels(image, np.full(len(image), flipped), label, xy, score, score > 0.5, count)


def test_overlap_by_hand() -> None:
    at = torch.tensor([[[3.0, 3], [4, 4], [9, 9]], [[3, 3], [3, 5], [4, 4]], [[0, 0], [0, 0], [0, 0]]])
    height = torch.tensor([[0.9, 0.3, 0.9], [0.9, 0.3, 0.21], [0.9, 0.2, 0.9]])  # 0.2 is not above 0.2
    together, alone = fire_together(at, height, 0.2, 1.425)
    assert alone.tolist() == [3, 2, 3]
    assert together.tolist() == [[3, 1, 2], [1, 2, 1], [2, 1, 3]]
    assert fire_together(at[:1], height[:1], 0.2, 2**0.5)[0][0, 1] == 0  # closer, and not as far


def test_overlap_equals_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    at, height = draw.integers(0, 5, (30, 7, 2)), draw.random((30, 7))
    both, sure = np.zeros((7, 7), int), np.zeros(7, int)
    for places, heights in zip(at, height, strict=True):
        for a in range(7):
            sure[a] += heights[a] > 0.4
            for b in range(7):
                near = np.hypot(*(places[a] - places[b])) < 1.425
                both[a, b] += near and heights[a] > 0.4 and heights[b] > 0.4
    together, alone = fire_together(torch.from_numpy(at).float(), torch.from_numpy(height), 0.4, 1.425)
    np.testing.assert_array_equal(together.numpy(), both)
    np.testing.assert_array_equal(alone.numpy(), sure)


def test_merging_equals_a_double_loop() -> None:
    draw, left = np.random.default_rng(2), set()
    for _ in range(20):
        count = 9
        sure = draw.integers(0, 30, count)
        both = draw.integers(0, 30, (count, count))
        both = np.minimum(np.minimum(np.minimum(both, both.T), sure), sure[:, None])
        population = draw.integers(0, 5, count)  # some are equal
        want = list(range(count))
        kept: list[int] = []
        for one in sorted(range(count), key=lambda k: (-population[k], k)):
            for other in kept:
                if both[one, other] > 0.7 * min(sure[one], sure[other]):
                    want[one] = other
                    break
            else:
                kept.append(one)
        assert merged(Overlaps(both, sure), population, 0.7).tolist() == want
        left.add(len(kept))
    assert len(left) > 2 and max(left) > 2


def test_the_first_kept_one_takes_it_and_groups_do_not_chain() -> None:
    """1 and 2 both fire with 0's neighbour 3; 2 goes to 1, the more populous; 4 fires with 2 alone, which is gone."""
    sure, both = np.full(5, 10), np.diag(np.full(5, 10))
    for a, b in ((1, 2), (3, 2), (2, 4)):
        both[a, b] = both[b, a] = 8
    assert merged(Overlaps(both, sure), np.array([9, 8, 1, 2, 0]), 0.7).tolist() == [0, 1, 1, 3, 4]
    assert merged(Overlaps(both, sure), np.array([9, 2, 1, 8, 0]), 0.7).tolist() == [0, 1, 3, 3, 4]
    assert merged(Overlaps(both, sure), np.array([9, 8, 1, 2, 0]), 0.8).tolist() == [0, 1, 2, 3, 4]
    never = Overlaps(0 * both, 0 * sure)  # dark heat maps
    assert merged(never, np.zeros(5, int), 0.0).tolist() == [0, 1, 2, 3, 4]


def test_the_most_populous_labels_stay() -> None:
    lines = [(3, 0), (3, 1), (3, 2), (4, 2), (4, 1), (5, 1), (6, 0), (6, 3), (7, 2)]
    labels = labels_of(*lines, count=4)
    assert populations(labels).tolist() == [2, 3, 3, 1]
    found = relabelled(labels, np.array([1, 1, 1, 3]))
    assert found.count == 2 and found.image.tolist() == [3, 4, 5, 6, 6, 7]
    assert found.label.tolist() == [0, 0, 0, 0, 1, 0] and found.own[CHANNEL].tolist() == [1, 1, 1, 1, 3, 1]
    # of image 3 the point of 1, of image 4 that of 1 before 2 which is as populous, of 6 that of 0
    assert found.xy[:, 0].tolist() == [1, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal(found.score, labels.score[[1, 4, 5, 6, 7, 8]])
    np.testing.assert_array_equal(found.detected, labels.detected[[1, 4, 5, 6, 7, 8]])
    kept = continued(found)
    assert kept is not None and kept.tolist() == [1, 3]


def test_flips_are_merged_each_on_its_own() -> None:
    plain, mirror = labels_of((3, 0), (3, 1), count=2), labels_of((3, 1), (4, 1), count=2, flipped=True)
    names = ("image", "flipped", "label", "xy", "score", "detected")
    both = Labels(**{n: np.concatenate([getattr(plain, n), getattr(mirror, n)]) for n in names}, count=2)
    found = relabelled(both, np.array([1, 1]))
    assert found.flipped.tolist() == [False, True, True] and found.image.tolist() == [3, 3, 4]
    assert found.xy[:, 0].tolist() == [1, 0, 1]


def test_nothing_merges() -> None:
    labels = labels_of((3, 0), (3, 2), (4, 1), count=3)
    found = relabelled(labels, np.arange(3))
    for name in ("image", "label", "xy", "score"):
        np.testing.assert_array_equal(getattr(found, name), getattr(labels, name))
    assert found.count == 3 and found.own[CHANNEL].tolist() == [0, 2, 1]


def test_small_clusters_are_left_out() -> None:
    labels = labels_of((3, 0), (3, 2), (4, 2), (5, 2), (6, 3), (6, 0), count=5)
    found = populous(labels, 2)
    assert found.count == 2 and found.label.tolist() == [0, 1, 1, 1, 0] and found.xy[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert continued(found) is None and CHANNEL in found.own
    assert populous(labels, 0).count == 3  # those without any label get no heat map
    with pytest.raises(ULDError, match="no landmark has 4 labels, the most are 3: lower"):
        populous(labels, 4)


@pytest.mark.parametrize("batch", ["3", "32"])
def test_overlaps_of_a_model(monkeypatch: pytest.MonkeyPatch, batch: str) -> None:
    """Two heat maps at one place, of which one is dark in some images; two by themselves."""
    monkeypatch.setenv("ULD_BATCH", batch)
    source: Any = Planted(14, PARTS)
    source.centres[:, 1] = source.centres[:, 0] + np.array([0.0, 0.6], np.float32)
    source.heights[2:6, 0, 1] = 0.1
    found = overlaps(source, np.arange(2, 14), PLAIN, 0.2, 1.425)
    assert found.sure.tolist() == [12, 8, 12, 12]
    want = np.diag([12, 8, 12, 12])
    want[0, 1] = want[1, 0] = 8
    np.testing.assert_array_equal(found.both, want)
    assert merged(found, np.array([5, 9, 5, 5]), 0.7).tolist() == [1, 1, 2, 3]
