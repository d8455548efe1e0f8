"""The feature store: what goes in comes out, and what does not fit is refused."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from tests.diffusion.filling import ROWS, SHAPES, SHARD_BYTES, VIEWS, Counting, build, compute, digest, fail, value
from uld.base.errors import ArtifactError
from uld.base.scratch import scratch_folder
from uld.diffusion import store
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", SHARD_BYTES)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A store built without any trouble."""
    return build(tmp_path / "whole")


# --- reading ---


def test_what_goes_in_comes_out_in_float16(whole: Path) -> None:
    opened = FeatureStore(whole)
    assert len(opened) == ROWS
    assert opened.names == list(SHAPES)
    for view in range(VIEWS):
        got = opened.read(np.arange(ROWS), view)
        for name in SHAPES:
            want = value(name, np.arange(ROWS), view).half().float()
            assert got[name].dtype == torch.float32
            torch.testing.assert_close(got[name], want, atol=0, rtol=0)


@pytest.mark.parametrize("rows", [[0], [10], [2, 3], [3, 2], [9, 0, 1, 2, 10], [5, 5], [0, 4, 8, 3, 4, 5]])
def test_rows_in_any_order(whole: Path, rows: list[int]) -> None:
    got = FeatureStore(whole).read(np.array(rows), 1)
    for name in SHAPES:
        torch.testing.assert_close(got[name], value(name, np.array(rows), 1).half().float(), atol=0, rtol=0)


def test_layout_is_as_documented(whole: Path) -> None:
    group = zarr.open_group(whole, mode="r")
    assert group.metadata.zarr_format == 3
    array: Any = group["l10_t5"]
    assert (array.shape, array.chunks, array.shards) == ((ROWS, VIEWS, 2, 8, 8), (3, VIEWS, 2, 8, 8), None)
    assert array.dtype == np.float16
    opened = FeatureStore(whole)
    np.testing.assert_allclose(opened.views, np.stack([coords.view(8), coords.view(8, mirror=True)]))
    assert opened.mirrored.tolist() == [False, True]
    assert opened.spec["seed"] == 3
    assert opened.spec["arrays"] == list(SHAPES)


def test_memory_is_bounded_by_the_shard() -> None:
    tall = {"l": (1280, 64, 64)}  # one row of four views is 42 MB
    assert store.shard_rows(tall, 4) == 1
    few, many = ({f"l{n}": (1, 1, 1) for n in range(count * store.FEW)} for count in (1, 10))
    assert store.shard_rows(few, 1) == store.shard_rows(many, 1) == store.SHARD_BYTES // (2 * store.FEW)
    for views in (1, 4):
        rows = store.shard_rows(SHAPES, views)
        assert rows * 2 * views * (3 * 16 + 2 * 64) <= store.SHARD_BYTES


def test_a_batch_is_written_while_the_next_one_is_computed(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one after that: two are in memory. A shard begins when the one before it is on disk."""
    write, begun, seen = store._write, threading.Event(), []

    def writing(*part: Any) -> None:
        assert begun.wait(60)
        write(*part)
        seen.append("written")

    def computing(first: int, end: int) -> Iterator[tuple[int, Features]]:
        assert seen.count("begun") == seen.count("written")
        for number, part in enumerate(compute(first, end)):
            seen.append("begun")
            if number == 1:
                begun.set()
            assert seen.count("begun") <= seen.count("written") + store.IN_FLIGHT
            yield part

    monkeypatch.setattr(store, "_write", writing)
    assert digest(build(tmp_path / "b", computing)) == digest(whole)
    assert seen.count("written") == 4 * 2  # shards of 3, 3, 3 and 2 rows in two views, in batches of 3


def test_a_chunk_is_what_zarr_writes(tmp_path: Path, whole: Path) -> None:
    """The last one has rows that no image has."""
    group = zarr.open_group(tmp_path / "zarr", mode="w")
    for name, shape in SHAPES.items():
        chunks = (3, VIEWS, *shape)
        made = group.create_array(
            name, shape=(ROWS, VIEWS, *shape), chunks=chunks, dtype="<f2", compressors=None, fill_value=float("nan")
        )
        made[:] = np.stack([value(name, np.arange(ROWS), view).half().numpy() for view in range(VIEWS)], 1)
        for number in range(4):
            file = f"{name}/c/{number}/0/0/0/0"
            assert (whole / file).read_bytes() == (tmp_path / "zarr" / file).read_bytes()


# --- refusing ---


def test_check_names_what_differs(whole: Path) -> None:
    opened = FeatureStore(whole)
    opened.check(seed=3, rows=ROWS)
    with pytest.raises(ArtifactError, match=r"trained.zarr does not fit \(seed: store has 3, wanted 4\): run"):
        opened.check(seed=4, rows=ROWS)
    with pytest.raises(ArtifactError, match="layers: store has None, wanted"):
        opened.check(layers=[[0, 1]])


def test_a_missing_or_unfinished_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"trained.zarr is missing: run `dvc repro features` first"):
        FeatureStore(tmp_path / "trained.zarr")
    with pytest.raises(RuntimeError):
        build(tmp_path / "broken", Counting(6, fail(RuntimeError())))
    (partial,) = scratch_folder("x").parent.glob("*/store.zarr")
    with pytest.raises(ArtifactError, match="is incomplete: delete it and run"):
        FeatureStore(partial)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 7e4])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, bad: float) -> None:
    def spoilt(first: int, end: int) -> Iterator[tuple[int, Features]]:
        for offset, features in compute(first, end):
            if first == 3 and offset:
                features["l10_t5"][0, 1, 2, 3] = bad
            yield offset, features

    with pytest.raises(ArtifactError, match=r"features l10_t5 of rows 3..5 are not finite in float16"):
        build(tmp_path, spoilt)
    assert not (tmp_path / "features").exists()
