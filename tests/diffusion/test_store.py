"""The feature store: what goes in comes out, and what does not fit is refused."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import torch
import zarr

from tests.diffusion.filling import (
    BANK,
    PAIRS,
    ROWS,
    SHAPES,
    SHARD,
    TRAIN,
    WARP,
    Counting,
    build,
    compute,
    digest,
    fail,
    value,
)
from uld.base.errors import ArtifactError
from uld.base.scratch import scratch_folder
from uld.diffusion import building, store
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords

pytestmark = pytest.mark.usefixtures("small_shards")


# --- reading ---


def test_what_goes_in_comes_out_in_float16(whole: Path) -> None:
    opened = FeatureStore(whole)
    assert len(opened) == ROWS
    assert opened.names == list(SHAPES)
    for view, rows in enumerate((np.arange(ROWS), np.arange(TRAIN), np.arange(TRAIN, ROWS))):
        got = opened.read(rows, view)
        for name in SHAPES:
            want = value(name, rows, view).half().float()
            assert got[name].dtype == torch.float32
            torch.testing.assert_close(got[name], want, atol=0, rtol=0)


@pytest.mark.parametrize("rows", [[0], [10], [2, 3], [3, 2], [9, 0, 1, 2, 10], [5, 5], [0, 4, 8, 3, 4, 5]])
def test_rows_in_any_order(whole: Path, rows: list[int]) -> None:
    got = FeatureStore(whole).read(np.array(rows))
    for name in SHAPES:
        torch.testing.assert_close(got[name], value(name, np.array(rows), 0).half().float(), atol=0, rtol=0)


def test_each_image_in_a_view_of_its_own(whole: Path) -> None:
    rows, views = np.random.default_rng(0).permutation(np.array(PAIRS)).T
    got = FeatureStore(whole).views_of(rows, views, ["l10_t5"])
    assert list(got) == ["l10_t5"]
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        assert torch.equal(got["l10_t5"][number], value("l10_t5", np.array([row]), view)[0].half().float())


def test_layout_is_as_documented(whole: Path) -> None:
    group = zarr.open_group(whole, mode="r")
    assert group.metadata.zarr_format == 3
    array: Any = group["l10_t5"]
    assert (array.shape, array.chunks, array.shards) == ((len(PAIRS), 2, 8, 8), (SHARD, 2, 8, 8), None)
    assert array.dtype == np.float16
    opened = FeatureStore(whole)
    np.testing.assert_allclose(opened.views, np.stack([coords.view(8), coords.view(8, mirror=True), WARP]))
    assert (opened.flipped.tolist(), opened.bank) == ([False, True, False], BANK)
    items: Any = group["items"]
    assert items[:].tolist() == [list(pair) for pair in PAIRS] == opened.layout.items.tolist()
    assert opened.spec["seed"] == 3
    assert opened.spec["arrays"] == list(SHAPES)


def test_memory_is_bounded_by_the_shard() -> None:
    tall: building.Shapes = {"l": (5120, 64, 64)}  # one item is 42 MB
    assert building.shard_items(tall) == 1
    few, many = ({f"l{n}": (1, 1, 1) for n in range(count * building.FEW)} for count in (1, 10))
    assert building.shard_items(few) == building.shard_items(many) == building.SHARD_BYTES // (2 * building.FEW)
    assert building.shard_items(SHAPES) * 2 * (3 * 16 + 2 * 64) <= building.SHARD_BYTES


def test_a_batch_is_written_while_the_next_one_is_computed(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the one after that: two are in memory. A shard begins when the one before it is on disk."""
    write, begun, seen = building._write, threading.Event(), []

    def writing(*part: Any) -> None:
        assert begun.wait(60)
        write(*part)
        seen.append("written")

    def computing(first: int, end: int) -> Iterator[Features]:
        assert seen.count("begun") == seen.count("written")
        for number, part in enumerate(compute(first, end)):
            seen.append("begun")
            if number == 1:
                begun.set()
            assert seen.count("begun") <= seen.count("written") + building.IN_FLIGHT
            yield part

    monkeypatch.setattr(building, "_write", writing)
    assert digest(build(tmp_path / "b", computing)) == digest(whole)
    assert seen.count("written") == 4 * 2  # shards of 6, 6, 6 and 4 items, in batches of 3


def test_a_chunk_is_what_zarr_writes(tmp_path: Path, whole: Path) -> None:
    """The last one has items that no image has."""
    group = zarr.open_group(tmp_path / "zarr", mode="w")
    for name, shape in SHAPES.items():
        chunks = (SHARD, *shape)
        made = group.create_array(
            name, shape=(len(PAIRS), *shape), chunks=chunks, dtype="<f2", compressors=None, fill_value=float("nan")
        )
        made[:] = np.concatenate([value(name, np.array([row]), view).half().numpy() for row, view in PAIRS])
        for number in range(4):
            file = f"{name}/c/{number}/0/0/0"
            assert (whole / file).read_bytes() == (tmp_path / "zarr" / file).read_bytes()


@pytest.mark.filterwarnings("error")
def test_the_network_that_made_it_lies_in_it(tmp_path: Path, whole: Path) -> None:
    assert digest(whole / "backbone") == digest(tmp_path / "network")
    zarr.open_group(whole, mode="r")["l00_t5"]  # zarr reads on beside it


# --- the layout ---


def test_training_images_have_the_bank_and_test_images_the_warps() -> None:
    bank, warps = np.stack([coords.view(8, rotate=turn) for turn in (0, 5, 9)]), np.stack([WARP, WARP + 1])
    layout = store.lay_out(bank, np.array([False, True, False]), warps, np.array([False, True, False]))
    assert layout.items.tolist() == [[0, 0], [0, 3], [0, 4], [1, 0], [1, 1], [1, 2], [2, 0], [2, 3], [2, 4]]
    assert layout.lookup(3).tolist() == [[0, -1, -1, 1, 2], [3, 4, 5, -1, -1], [6, -1, -1, 7, 8]]
    np.testing.assert_array_equal(layout.views, np.concatenate([bank, warps]))
    assert (layout.flipped.tolist(), layout.bank) == ([False, True, False, False, False], 3)


def test_test_images_in_a_mirror_and_training_images_in_the_first() -> None:
    bank, warps = np.stack([coords.view(8), coords.view(8, rotate=5)]), WARP[None]
    mirrors = coords.mirrored(np.concatenate([bank[:1], warps]), 8)
    layout = store.lay_out(bank, np.array([False, False]), warps, np.array([False, True]), mirrors)
    assert layout.items.tolist() == [[0, 0], [0, 2], [0, 3], [0, 4], [1, 0], [1, 1], [1, 3]]
    np.testing.assert_array_equal(layout.views, np.concatenate([bank, warps, mirrors]))
    assert (layout.flipped.tolist(), layout.bank) == ([False, False, False, True, True], 2)


def test_a_layout_without_warps() -> None:
    layout = store.lay_out(WARP[None], np.array([False]), np.empty((0, 2, 3)), np.array([True, False]))
    assert layout.items.tolist() == [[0, 0], [1, 0]]


def test_another_split_has_another_fingerprint() -> None:
    def of(*train: bool) -> str:
        return store.lay_out(WARP[None], np.array([False]), WARP[None], np.array(train)).fingerprint

    assert of(True, False) == of(True, False) != of(False, True)


# --- the checksum ---


def by_hand(path: Path) -> str:
    """Of the files as they are: a line an array and shard."""
    shards = range(len(list((path / "l00_t5/c").iterdir())))
    crcs = [(name, google_crc32c.value((path / f"{name}/c/{n}/0/0/0").read_bytes())) for n in shards for name in SHAPES]
    return hashlib.sha256("".join(f"{name} {crc:08x}\n" for name, crc in crcs).encode()).hexdigest()


def test_the_digest_is_of_what_is_stored(whole: Path) -> None:
    assert FeatureStore(whole).spec["digest"] == by_hand(whole)


def test_one_other_value_gives_another_digest(tmp_path: Path, whole: Path) -> None:
    def other(first: int, end: int) -> Iterator[Features]:
        for part in compute(first, end):
            if first == 12:
                part["l00_t5"][1, 2, 3, 1] += 0.5
            yield part

    path = build(tmp_path / "b", other)
    assert FeatureStore(path).spec["digest"] == by_hand(path) != FeatureStore(whole).spec["digest"]


# --- refusing ---


@pytest.mark.parametrize(("row", "view"), [(8, 1), (10, 1), (0, 2), (3, 3), (11, 0), (-1, 0), (0, -1)])
def test_what_is_not_stored_is_named(whole: Path, row: int, view: int) -> None:
    there = (
        "training images have views 0 to 1, the bank, and test images view 0 and those from 2 to 2, the evaluation's"
    )
    with pytest.raises(
        ArtifactError, match=f"does not hold image row {row} in view {view}: of 11 images, {there} warps"
    ):
        FeatureStore(whole).views_of(np.array([4, row, 9]), np.array([1, view, 2]), ["l00_t5"])


def test_check_names_what_differs(whole: Path) -> None:
    opened = FeatureStore(whole)
    opened.check(seed=3, rows=ROWS)
    with pytest.raises(ArtifactError, match=r"trained.zarr does not fit \(seed: store has 3, wanted 4\): run"):
        opened.check(seed=4, rows=ROWS)
    with pytest.raises(ArtifactError, match="layers: store has None, wanted"):
        opened.check(layers=[[0, 1]])


def test_a_missing_or_unfinished_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"trained.zarr/zarr.json is missing: run `dvc repro features` first"):
        FeatureStore(tmp_path / "trained.zarr")
    with pytest.raises(RuntimeError):
        build(tmp_path / "broken", Counting(6, fail(RuntimeError())))
    (partial,) = scratch_folder("x").parent.glob("*/store.zarr")
    with pytest.raises(ArtifactError, match="is incomplete: delete it and run"):
        FeatureStore(partial)
    zarr.open_group(partial, mode="r+").attrs["spec"] = {}
    with pytest.raises(ArtifactError, match="was made by an older version: delete it and run"):
        FeatureStore(partial)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 7e4])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, bad: float) -> None:
    def spoilt(first: int, end: int) -> Iterator[Features]:
        for number, features in enumerate(compute(first, end)):
            if first == 6 and number:
                features["l10_t5"][0, 1, 2, 3] = bad
            yield features

    with pytest.raises(ArtifactError, match=r"features l10_t5 of rows 3..5 are not finite in float16"):
        build(tmp_path, spoilt)
    assert not (tmp_path / "features").exists()
