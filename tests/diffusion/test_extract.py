"""A feature store filled by a real (tiny) network from real crops."""

import os
import signal
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from uld.base import runtime, stop
from uld.base.errors import ArtifactError, ULDError
from uld.diffusion import backbone, building, extract, reduce
from uld.diffusion.backbone import Backbone
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.store import FeatureStore
from uld.geometry import coords, sampling
from uld.images.crops import Crops

TRAIN, TEST, ROWS = np.arange(5), np.arange(5, 7), np.arange(7)
WARPS = np.stack([coords.view(32, rotate=180), coords.view(32, rotate=25, scale=1.1)])
BANK = StoreParams(True, "features", (ViewParams(False, 0, 1), ViewParams(True, 0, 1), ViewParams(False, 90, 1)), False)


@pytest.fixture
def reader(pixel: Backbone) -> Extractor:
    return Extractor(pixel, ReadoutParams(((0, 1), (1, 0)), (24, 142), "add_noise", 50, "float32"), 0)


@pytest.fixture
def fill(
    tmp_path: Path, reader: Extractor, crops32: Crops, photographs: tuple[Path, pd.DataFrame], pixel_folder: Path
) -> Callable[..., FeatureStore]:
    def run(name: str = "trained", reduction: ReduceParams | None = None, boxes: Any = photographs[1]) -> FeatureStore:
        path = tmp_path / f"{name}.zarr"
        extract.fill(path, reader, crops32, boxes, BANK, reduction, 0, WARPS, pixel_folder)
        return FeatureStore(path)

    return run


def read(reader: Extractor, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    """Straight from crops (B, S, S, 3)."""
    return reader(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255)


def near(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=2e-3, rtol=2e-3)  # float16


def test_every_view_is_a_pass_of_its_own(
    fill: Callable[..., FeatureStore], reader: Extractor, crops32: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULD_BATCH", "3")
    opened = fill()
    pixels = crops32.images(slice(None))
    near(opened.read(ROWS, 0), read(reader, pixels))
    near(opened.read(TRAIN, 1), read(reader, pixels[TRAIN, :, ::-1]))
    near(opened.read(TRAIN, 2), read(reader, np.rot90(pixels[TRAIN], -1, (1, 2))))
    near(opened.read(TEST, 3), read(reader, pixels[TEST, ::-1, ::-1]))
    # and not the map of view 0, mirrored
    assert not torch.allclose(opened.read(TRAIN, 1)["l10_t24"], opened.read(TRAIN, 0)["l10_t24"].flip(3), atol=0.02)


def test_every_item_is_a_pass_over_its_own_warped_image(
    fill: Callable[..., FeatureStore], reader: Extractor, crops32: Crops
) -> None:
    opened = fill()
    images = extract.as_images(crops32.images(slice(None)), torch.device("cpu"))
    assert opened.layout.items.tolist() == [[r, v] for r in TRAIN for v in (0, 1, 2)] + [
        [r, v] for r in TEST for v in (0, 3, 4)
    ]
    for row, view in opened.layout.items:
        seen = sampling.warp(images[[row]], opened.views[view])
        near(opened.read(np.array([row]), view), reader(seen))


def test_the_network_is_carried(fill: Callable[..., FeatureStore], reader: Extractor) -> None:
    assert backbone.load(fill().path / "backbone").fingerprint == reader.backbone.fingerprint


def test_another_split_is_another_store(
    fill: Callable[..., FeatureStore],
    reader: Extractor,
    crops32: Crops,
    photographs: tuple[Path, pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of an unfinished run of another split is used: images may have other views there."""
    monkeypatch.setattr(building, "SHARD_BYTES", 1)  # an item a shard
    write = building._write_shard

    def stop_there(chunks: Any, place: str, *rest: Any) -> None:
        if place == "of rows 4..4":
            raise RuntimeError
        write(chunks, place, *rest)

    monkeypatch.setattr(building, "_write_shard", stop_there)
    with pytest.raises(RuntimeError):
        fill()
    monkeypatch.setattr(building, "_write_shard", write)
    again = fill(boxes=photographs[1].assign(split=["test"] * 2 + ["train"] * 5))
    assert again.layout.items[:3].tolist() == [[0, 0], [0, 3], [0, 4]]
    near(again.read(np.arange(2), 3), read(reader, crops32.images(slice(0, 2))[:, ::-1, ::-1]))


def test_the_store_says_what_it_holds(fill: Callable[..., FeatureStore], reader: Extractor, crops32: Crops) -> None:
    opened = fill()
    assert {key: opened.spec[key] for key in opened.spec if key not in ("arrays", "shard", "digest")} == {
        "backbone": reader.backbone.fingerprint,
        "crops": crops32.fingerprint(),
        "rows": 7,
        "layers": [[0, 1], [1, 0]],
        "timesteps": [24, 142],
        "policy": "add_noise",
        "inversion_steps": 50,
        "dtype": "float32",
        "image_size": 32,
        "seed": 0,
        "bank": [[False, 0, 1], [True, 0, 1], [False, 90, 1]],
        "warps": WARPS.tolist(),
        "items": opened.layout.fingerprint,
        "reduce": None,
        "keep": "features",
    }
    assert opened.names == reader.names()
    assert (opened.flipped.tolist(), opened.bank) == ([False, True, False, False, False], 3)
    np.testing.assert_array_equal(opened.views[3:], WARPS)


def test_the_batch_size_does_not_show(fill: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fill("whole")
    monkeypatch.setenv("ULD_BATCH", "2")
    near(all_of(fill("pairs")), all_of(whole))


def test_the_shard_size_changes_no_value(fill: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same images a pass, bit for bit."""
    monkeypatch.setenv("ULD_BATCH", "2")
    whole = fill("whole")
    monkeypatch.setattr(building, "SHARD_BYTES", 4 * item_bytes(whole))
    parts = fill("parts")
    assert (whole.spec["shard"], parts.spec["shard"]) == (21, 4)
    got, want = all_of(parts), all_of(whole)
    assert all(torch.equal(got[name], want[name]) for name in want)


def all_of(opened: FeatureStore) -> dict[str, torch.Tensor]:
    """All items."""
    return opened.views_of(*opened.layout.items.T, opened.names)  # type: ignore[call-arg]


def test_crops_of_the_next_batch_are_read_ahead(
    fill: Callable[..., FeatureStore], reader: Extractor, crops32: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread, and each of them once but where a batch ends amid the views of an image."""
    asked: list[tuple[str, int, int]] = []
    images = Crops.images

    def spy(crops: Crops, rows: Any) -> Any:
        asked.append((threading.current_thread().name, rows.start, rows.stop))
        return images(crops, rows)

    monkeypatch.setattr(Crops, "images", spy)
    monkeypatch.setenv("ULD_BATCH", "4")
    opened = fill()
    ahead = [rows for name, *rows in asked if name.startswith("reader")]
    assert ahead == [[0, 2], [1, 3], [2, 4], [4, 6], [5, 7], [6, 7]]  # items 0-3, 4-7, 8-11, 12-15, 16-19 and 20
    assert len(asked) - len(ahead) == 1  # the first image, for the shapes
    near(opened.read(TRAIN, 2), read(reader, np.rot90(images(crops32, TRAIN), -1, (1, 2))))


def test_a_batch_that_memory_does_not_hold_is_halved(
    fill: Callable[..., FeatureStore], reader: Extractor, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    reduced = ReduceParams(dims=4, images=3)
    whole, project, most = fill("whole", reduced), reduce.Reduction._project, 5

    def small(reduction: reduce.Reduction, name: str, value: torch.Tensor) -> torch.Tensor:
        if len(value) > most:
            raise torch.OutOfMemoryError
        return project(reduction, name, value)

    monkeypatch.setattr(runtime, "_fitting", [])
    monkeypatch.setattr(reduce.Reduction, "_project", small)
    part = fill("part", reduced)
    assert "going on with" in capsys.readouterr().out
    near(all_of(part), all_of(whole))
    most = 0
    with pytest.raises(ULDError, match="no memory for a single image"):
        fill("none", reduced)


def item_bytes(opened: FeatureStore) -> int:
    """Bytes of an image in one view."""
    return sum(2 * value[0].numel() for value in opened.read(np.arange(1)).values())


class Many(Crops):
    """Any number of crops that are nowhere."""

    def __init__(self, rows: int) -> None:
        self.rows, self.size = rows, 32

    def __len__(self) -> int:
        return self.rows

    def fingerprint(self) -> str:
        return "none"

    def images(self, rows: Any) -> np.ndarray:
        return np.full((rows.stop - rows.start, 32, 32, 3), 90, np.uint8)


def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, pixel: Backbone, pixel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of NumPy, which holds the batches. An image has 24 KB of features, so these stores 0.8 and 3.1 MB."""
    reader = Extractor(pixel, ReadoutParams(((0, 1), (1, 0)), (24,), "add_noise", 50, "float32"), 0)
    one = StoreParams(True, "features", (ViewParams(False, 0, 1),), False)
    monkeypatch.setenv("ULD_BATCH", "4")
    monkeypatch.setattr(building, "SHARD_BYTES", 200_000)
    peaks = []
    for rows in (8, 32, 128):  # the first one warms up
        boxes = pd.DataFrame({"split": ["train"] * rows})
        tracemalloc.start()
        extract.fill(tmp_path / f"{rows}.zarr", reader, Many(rows), boxes, one, None, 0, WARPS, pixel_folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] > 4 * 12_000  # a batch is seen, in float16
    assert peaks[2] < 2 * peaks[1]


def test_reduced_features(fill: Callable[..., FeatureStore], reader: Extractor, crops32: Crops) -> None:
    opened = fill("trained", ReduceParams(dims=6, images=3))
    assert opened.spec["reduce"] == [6, 3]
    reduction = reduce.load(opened.path)
    assert reduction is not None
    rows = np.arange(7)
    near(opened.read(rows, 0), reduction(read(reader, crops32.images(slice(None)))))
    assert opened.read(rows)["l01_t24"].shape == (7, 6, 8, 8)
    assert reduce.load(fill("plain").path) is None


def test_a_reduction_is_fitted_on_training_images_only(
    fill: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    images = Crops.images

    def spy(crops: Crops, rows: Any) -> Any:
        if isinstance(rows, np.ndarray):
            asked.extend(rows.tolist())
        return images(crops, rows)

    monkeypatch.setattr(Crops, "images", spy)
    fill("trained", ReduceParams(dims=4, images=99))
    assert asked == [0, 1, 2, 3, 4]  # 5 and 6 are test images


def test_an_interrupted_reduction_goes_on_with_the_same_one(
    fill: Callable[..., FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced = ReduceParams(dims=4, images=3)
    whole = fill("whole", reduced)
    monkeypatch.setattr(building, "SHARD_BYTES", 1)  # an item a shard
    write, seen = building._write_shard, []

    def writing(chunks: Any, place: str, *rest: Any) -> None:
        seen.append(place)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        write(chunks, place, *rest)

    monkeypatch.setattr(building, "_write_shard", writing)
    with pytest.raises(stop.Interrupted, match="2 of 21 shards are kept"):
        fill("part", reduced)
    monkeypatch.setattr(reduce, "fit", None)  # not again
    part = fill("part", reduced)
    assert seen == [f"of rows {row}..{row}" for row in range(7) for _ in range(3)]
    near(all_of(part), all_of(whole))


def test_an_overflow_of_half_precision_names_the_remedy(fill: Callable[..., FeatureStore], reader: Extractor) -> None:
    unet: Any = reader.unet
    unet.up_blocks[0].resnets[1].conv2.weight.mul_(1e7)
    with pytest.raises(ArtifactError, match=r"features l01_t24 of rows 0..6 .* set readout.dtype to float32"):
        fill()
