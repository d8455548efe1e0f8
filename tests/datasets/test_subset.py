"""A subset of a large data set."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.datasets.subset import SubsetParams, chosen, sizes

SPLIT = np.array(["train", "test", "train", "train", "test", "train"], dtype=object)


def subset(train: int | None, test: int | None, choose: str = "first", seed: int = 0) -> np.ndarray:
    return chosen(SPLIT, SubsetParams(train=train, test=test, choose=choose), seed)


def test_the_first_of_each_split() -> None:
    assert np.flatnonzero(subset(2, None)).tolist() == [0, 1, 2, 4]
    assert np.flatnonzero(subset(1, 1)).tolist() == [0, 1]
    assert subset(None, None).all()


def test_random_ones_follow_from_the_seed_and_are_part_of_more() -> None:
    drawn = [np.flatnonzero(subset(n, None, "random")).tolist() for n in range(1, 5)]
    assert [len(one) for one in drawn] == [3, 4, 5, 6]
    assert all(set(few) < set(more) for few, more in pairwise(drawn))
    assert (subset(2, 1, "random") == subset(2, 1, "random")).all()
    assert any((subset(2, 1, "random", seed) != subset(2, 1, "random")).any() for seed in range(1, 9))


@pytest.mark.parametrize("choose", ["first", "random"])
def test_more_than_there_are(choose: str, caplog: pytest.LogCaptureFixture) -> None:
    assert subset(5, 2, choose).all()
    assert caplog.messages == ["datasets.folder.subset.train: there are 4 images, not 5: all are used."]


@given(
    split=st.lists(st.sampled_from(["train", "test"]), min_size=1, max_size=20),
    train=st.none() | st.integers(1, 30),
    test=st.none() | st.integers(1, 30),
    choose=st.sampled_from(["first", "random"]),
)
def test_counts(split: list[str], train: int | None, test: int | None, choose: str) -> None:
    params = SubsetParams(train=train, test=test, choose=choose)  # type: ignore[arg-type]
    found = chosen(np.array(split, dtype=object), params, 3)
    used = [one for one, kept in zip(split, found, strict=True) if kept]
    there = split.count("train"), split.count("test")
    assert (used.count("train"), used.count("test")) == sizes(*there, params)
    assert sizes(*there, None) == there
