"""Random splits and split files."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.base.errors import DataError
from uld.datasets import splits


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    loners=st.integers(0, 20),
    test=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_no_group_is_divided_and_the_share_is_met(sizes: list[int], loners: int, test: float, seed: int) -> None:
    group = np.array([f"g{i}" for i, n in enumerate(sizes) for _ in range(n)] + [""] * loners, dtype=object)
    rng = np.random.default_rng(seed)
    group = group[rng.permutation(len(group))]
    split = splits.draw(group, test, rng)
    assert set(split) == {"train", "test"}
    table = pd.DataFrame({"group": group, "split": split})
    assert (table[table.group != ""].groupby("group")["split"].nunique() == 1).all()
    # the nearest prefix of shuffled groups is within half a group of the share, unless a split would be empty
    assert abs((split == "test").sum() - test * len(group)) <= max(sizes)


def test_without_groups_the_share_is_exact_and_seeded() -> None:
    group = np.array([""] * 200, dtype=object)
    one = splits.draw(group, 0.2, np.random.default_rng(1))
    assert (one == "test").sum() == 40
    assert np.array_equal(one, splits.draw(group, 0.2, np.random.default_rng(1)))
    assert not np.array_equal(one, splits.draw(group, 0.2, np.random.default_rng(2)))


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one group"):
        splits.draw(np.array(["a"] * 5, dtype=object), 0.2, np.random.default_rng(0))


def test_a_group_on_both_sides_is_named() -> None:
    index = pd.DataFrame({"split": ["train", "test", "test"], "group": ["a", "a", ""]})
    with pytest.raises(DataError, match="'a'"):
        splits.check(index)


def test_reads_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("image,split,group\nb.png,test,x\na.png,train,\n")
    table = splits.from_csv(tmp_path / "split.csv", np.array(["a.png", "b.png"], dtype=object))
    assert table.to_dict("list") == {"image": ["a.png", "b.png"], "split": ["train", "test"], "group": ["", "x"]}


def test_yaw_where_it_is_known(tmp_path: Path) -> None:
    path, images = tmp_path / "split.csv", np.array(["a.png", "b.png", "c.png"], dtype=object)
    path.write_text("image,yaw,split\nb.png,-180,test\na.png,,train\nc.png,12.5,train\n")
    table = splits.from_csv(path, images)
    assert table.columns.tolist() == ["image", "split", "group", "yaw"]
    np.testing.assert_array_equal(table["yaw"].to_numpy(np.float64), [np.nan, -180, 12.5])
    path.write_text("image,yaw,split\nb.png,,test\na.png,,train\nc.png,,train\n")
    assert "yaw" not in splits.from_csv(path, images)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,split\na.png,train\n", "'b.png' is missing"),
        ("image,split\na.png,train\nb.png,test\nc.png,test\n", "'c.png' names no file"),
        ("image,split\na.png,train\nb.png,val\n", "line 3: split 'val'"),
        ("image,split\na.png,train\nb.png,test\nb.png,test\n", "'b.png' is listed twice"),
        ("name,split\na.png,train\n", "columns image,split"),
        ("", "no readable CSV"),
    ],
)
def test_unfit_files_are_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        splits.from_csv(tmp_path / "split.csv", np.array(["a.png", "b.png"], dtype=object))


def test_a_hundred_thousand_images_take_no_time() -> None:
    rng = np.random.default_rng(0)
    group = np.array([f"p{i}" for i in rng.integers(0, 20_000, 100_000)], dtype=object)
    start = time.perf_counter()
    split = splits.draw(group, 0.2, rng)
    splits.check(pd.DataFrame({"split": split, "group": group}))
    assert time.perf_counter() - start < 3
