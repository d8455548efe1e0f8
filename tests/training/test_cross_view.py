"""Training of chapter 5's first stage: what is compared across views, and by which loss."""

import numpy as np
import pytest
import torch

from uld.artifacts.labels import Labels
from uld.base.errors import ULDError
from uld.losses.mallis import cross_contrast, present_mse
from uld.training.cross_view import across, crowded


def test_loss_by_hand() -> None:
    """Two pairs of views, three landmarks in the plane; the last one is in neither view of the second pair."""
    first = torch.tensor([[[1.0, 0], [0, 1], [0.6, 0.8]], [[1, 0], [0, 1], [1, 0]]])
    second = torch.tensor([[[0.6, 0.8], [0, 1], [1, 0]], [[0, 1], [0.8, 0.6], [1, 0]]])
    both = torch.tensor([[True, True, True], [True, True, False]])
    negative = torch.tensor([[0, 0, 1], [0, 2, 0], [1, 0, 1], [1, 1, 0]])
    positive = [0.16 + 0.64, 0, 0.16 + 0.64, 2, 0.64 + 0.16]
    gaps = [2**0.5, 0, (0.04 + 0.36) ** 0.5, 0]
    pushed = [max(0, 0.8 - gap) ** 2 for gap in gaps]
    want = (sum(positive) + sum(pushed)) / 9
    assert cross_contrast(first, second, both, negative, 0.8).item() == pytest.approx(want, rel=1e-6)
    nothing = cross_contrast(first, second, both & False, negative[:0], 0.8)
    assert nothing.item() == 0
    alone = cross_contrast(first, second, both & False, negative[:2], 0.8)
    assert alone.item() == pytest.approx(0.64 / 2)


def test_loss_pulls_together_and_pushes_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 3, 4, generator=draw, requires_grad=True) for _ in range(2))
    both = torch.tensor([[True, False, False], [False, False, False]])
    cross_contrast(first, second, both, torch.tensor([[1, 2, 0]]), 100.0).backward()
    assert first.grad is not None
    assert torch.equal(first.grad.any(2), torch.tensor([[True, False, False], [False, False, True]]))
    assert second.grad is not None and second.grad[1, 0].any() and not second.grad[1, 2].any()
    apart = (first - second).detach()
    assert (first.grad[0, 0] @ apart[0, 0]) > 0  # down the gradient it comes nearer
    assert (first.grad[1, 2] @ (first[1, 2] - second[1, 0]).detach()) < 0


def test_squared_error_of_present_channels_by_hand() -> None:
    """Errors 1/2 of one cell of two and 1/4 of one of four; the mean is over the channels that are present."""
    logits = torch.tensor([[[[0.0, 0], [0, 9]]], [[[0.0, 0], [0, 0]]]])
    target = torch.tensor([[[[0.5, 9], [0, 9]]], [[[0.25, 0.5], [0.5, 0.5]]]])
    inside = torch.tensor([[[True, False], [True, False]], [[True] * 2] * 2])
    present = torch.tensor([[True], [True]])
    each = [0.5**2 / 2, 0.25**2 / 4]
    assert present_mse(logits, target, inside, present).item() == pytest.approx(sum(each) / 2)
    present[0] = False
    assert present_mse(logits, target, inside, present).item() == pytest.approx(each[1])
    assert present_mse(logits, target, inside, present & False).item() == 0


def test_pairs_of_two_landmarks_that_both_views_have() -> None:
    draw = np.random.default_rng(0)
    both = draw.random((5, 7)) < 0.6
    both[3] = False
    every = [(p, a, b) for p in range(5) for a in range(7) for b in range(7) if a != b and both[p, a] and both[p, b]]
    mask = torch.from_numpy(both)
    assert [tuple(one) for one in across(mask, 1000, draw).tolist()] == every
    for most in (0, 1, 5):
        seen = set()
        for seed in range(40):
            found = [tuple(one) for one in across(mask, most, np.random.default_rng(seed)).tolist()]
            assert found == sorted(set(found)) and set(found) <= set(every)
            for p in range(5):
                want = min(most, sum(one[0] == p for one in every))
                assert sum(one[0] == p for one in found) == want
            seen |= set(found)
        if most == 5:
            assert seen == set(every)  # no pair is left out for good


def labels_in(*images: int) -> Labels:
    image = np.array(images, np.int64)
    xy, there = np.zeros((len(image), 2), np.float32), np.ones(len(image), bool)
    return Labels(image, ~there, np.arange(len(image)), xy, xy[:, 0], there, 9)


def test_images_with_few_labels_are_not_drawn() -> None:
    labels = labels_in(2, 2, 2, 5, 7, 7)
    assert [crowded(labels, least, "round one").tolist() for least in (1, 2, 3)] == [[2, 5, 7], [2, 7], [2]]
    with pytest.raises(ULDError, match=r"^round one: no image has 4 labels, the most are 3: lower methods"):
        crowded(labels, 4, "round one")
    assert not len(crowded(labels_in(), 4, "round one"))  # what a round without labels is told is told elsewhere
