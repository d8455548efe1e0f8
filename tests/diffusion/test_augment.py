"""What training does to its images: which ones it holds out, and how it varies the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from uld.base.errors import BackboneError
from uld.diffusion import training
from uld.diffusion.training import AugmentParams

STILL = AugmentParams(mirror=0, shift=0, rotate=0, scale=0, contrast=0)


@given(
    st.lists(st.sampled_from(["", "", "ann", "bob", "cat", "NA"]), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_hold_out_never_splits_a_group_and_never_takes_all(groups: list[str], share: float, seed: int) -> None:
    held = training.hold_out(np.array(groups, dtype=object), share, np.random.default_rng(seed))
    assert held.shape == (len(groups),)
    assert 0 < held.sum() < len(groups)
    sides = {name: {bool(h) for g, h in zip(groups, held, strict=True) if g == name} for name in set(groups) - {""}}
    if len(set(groups)) > 1:
        assert all(len(side) == 1 for side in sides.values())


def test_hold_out_counts_an_unknown_image_as_a_group_of_its_own() -> None:
    groups = np.array([""] * 100 + ["ann"] * 3, dtype=object)
    counts = [training.hold_out(groups, 0.2, np.random.default_rng(n)).sum() for n in range(20)]
    assert min(counts) >= 17
    assert max(counts) <= 23
    one = training.hold_out(np.array(["ann"] * 10, dtype=object), 0.3, np.random.default_rng(0))
    assert one.sum() == 3


def test_one_image_cannot_be_held_out() -> None:
    with pytest.raises(BackboneError, match="needs at least 2 training images"):
        training.hold_out(np.array([""], dtype=object), 0.1, np.random.default_rng(0))


def images(count: int = 6, size: int = 20) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmenting_by_nothing_is_the_identity() -> None:
    torch.testing.assert_close(training.augment(images(), STILL, rng()), images(), atol=1e-5, rtol=0)


def test_a_sure_mirror_is_exact() -> None:
    got = training.augment(images(), replace(STILL, mirror=1), rng())
    torch.testing.assert_close(got, images().flip(3), atol=1e-5, rtol=0)


def test_each_change_keeps_to_its_range() -> None:
    """Seen on a picture of its own coordinates, from -1 to 1 across the image."""
    axis = (torch.arange(20.0) * 2 + 1) / 20 - 1
    picture = 0.5 * torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None].expand(200, -1, -1, -1)
    middle = slice(8, 12)

    def mean(images: Tensor) -> Tensor:
        return images[:, :, middle, middle].mean((2, 3)) * 2

    moved = mean(training.augment(picture, replace(STILL, shift=0.1), rng()))
    assert 0.15 < moved.abs().max() <= 0.2 + 1e-4  # a tenth of a side that is 2 long
    scaled = training.augment(picture, replace(STILL, scale=0.2), rng())
    slope = (scaled[:, 0, 10, 11] - scaled[:, 0, 10, 8]) / (picture[:, 0, 10, 11] - picture[:, 0, 10, 8])
    assert 0.8 - 1e-4 <= slope.min() < 0.85
    assert 1.15 < slope.max() <= 1.2 + 1e-4
    turned = training.augment(picture, replace(STILL, rotate=30), rng())
    angle = torch.rad2deg(
        torch.atan2(turned[:, 1, 10, 11] - turned[:, 1, 10, 8], turned[:, 0, 10, 11] - turned[:, 0, 10, 8])
    )
    assert 25 < angle.abs().max() <= 30.01
    lit = training.augment(torch.full((200, 1, 4, 4), 0.5), replace(STILL, contrast=0.2), rng())
    assert (lit.flatten(1).std(1) < 1e-6).all()  # one light an image
    assert 0.2 - 1e-4 <= lit.min() < 0.3  # 0.5 (1 - 0.2) - 0.2
    assert 0.7 < lit.max() <= 0.8 + 1e-4


def test_augmenting_stays_in_range_and_differs_by_image() -> None:
    wild = AugmentParams(mirror=0.5, shift=0.2, rotate=40, scale=0.3, contrast=0.5)
    same = images(1).expand(5, -1, -1, -1)
    got = training.augment(same, wild, rng())
    assert got.abs().max() <= 1
    assert all(not torch.allclose(got[a], got[b], atol=0.01) for a in range(5) for b in range(a))
    assert torch.equal(got, training.augment(same, wild, rng()))
    assert not torch.equal(got, training.augment(same, wild, rng(1)))
