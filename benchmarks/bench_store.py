"""The feature store against one .npy file a view, and against a sharded, compressed zarr array written row by row; and
how long a device that computes features waits for it, against writing in turn.
"""

import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import zarr
from numpy.typing import NDArray
from timing import Ways, measure, report, run, same
from zarr.codecs import BloscCodec

from uld.base import random
from uld.diffusion import building, store
from uld.diffusion.store import Features, FeatureStore
from uld.images import cut

NAMES = ("l00_t24", "l01_t24", "l10_t24")
SD15 = {"l12_t261": (64, 16, 16), "l21_t261": (64, 32, 32), "l22_t261": (64, 32, 32), "l30_t261": (64, 64, 64)}
PASS = 0.02  # seconds a view: 2 TFLOP, as `uld preset sd15` has (`uld doctor --plan`), at 100 TFLOP/s
Half = NDArray[np.float16]


def build(folder: Path, data: Half) -> None:
    """Fill a store from data (N, V, arrays, C, h, w)."""
    items = data.reshape(-1, *data.shape[2:])

    def compute(first: int, end: int) -> Iterator[Features]:
        for start in range(first, end, 32):
            block = torch.from_numpy(items[start : min(start + 32, end)]).float()
            yield dict(zip(NAMES, block.unbind(1), strict=True))

    c, h, w = data.shape[3:]
    fill(folder, len(data), data.shape[1], compute, dict.fromkeys(NAMES, (c, h, w)))


def fill(folder: Path, rows: int, views: int, compute: building.Compute, shapes: building.Shapes) -> Path:
    """Make a store of training images in `views` views."""
    for name in ("scratch", "backbone"):
        (folder / name).mkdir(parents=True)
    bank = np.tile(np.eye(2, 3), (views, 1, 1))
    layout = store.lay_out(bank, np.zeros(views, bool), np.empty((0, 2, 3)), np.ones(rows, bool))
    with contextlib.redirect_stdout(io.StringIO()):  # the progress bar
        place, spec = folder / "x.zarr", {"rows": rows}
        building.build(place, folder / "scratch", spec, layout, folder / "backbone", compute, shapes)
    return place


def files(folder: Path, data: Half) -> None:
    """One .npy a row and view, with all arrays in it."""
    folder.mkdir()
    for row in range(len(data)):
        for view in range(data.shape[1]):
            np.save(folder / f"{row:06d}_{view}.npy", data[row, view])


def row_by_row(folder: Path, data: Half) -> None:
    """A chunk a view in compressed shards, each row written when it is ready: its shard is read and written again."""
    rows, views, _, *shape = data.shape
    shard = max(1, building.shard_items(dict.fromkeys(NAMES, (shape[0], shape[1], shape[2]))) // views)
    group = zarr.open_group(folder / "x.zarr", mode="w")
    for n, name in enumerate(NAMES):
        array = group.create_array(
            name,
            shape=(rows, views, *shape),
            chunks=(1, 1, *shape),
            shards=(shard, views, *shape),
            dtype="float16",
            compressors=BloscCodec(typesize=2, cname="zstd", clevel=1, shuffle="bitshuffle"),
        )
        for row in range(rows):
            array[row] = data[row, :, n]


def fresh(root: Path, name: str) -> Path:
    """An empty place for one run."""
    shutil.rmtree(root / name, ignore_errors=True)
    return root / name


def read_store(path: Path, batches: list[NDArray[np.int64]], views: int) -> float:
    """Read all batches in all views; the sum over the values, for the check."""
    opened = FeatureStore(path)
    total = 0.0
    for rows in batches:
        for view in range(views):
            total += sum(float(value.sum()) for value in opened.read(rows, view).values())
    return total


def read_files(folder: Path, batches: list[NDArray[np.int64]], views: int) -> float:
    """The same from the .npy files."""
    total = 0.0
    for rows in batches:
        for view in range(views):
            block = np.stack([np.load(folder / f"{row:06d}_{view}.npy") for row in rows])
            total += sum(float(value.sum()) for value in torch.from_numpy(block).float().unbind(1))
    return total


def write(root: Path, data: Half, repeats: int) -> None:
    """Time the writers."""
    ways: Ways = {
        "uld": lambda: build(fresh(root, "store"), data),
        ".npy files": lambda: files(fresh(root, "files"), data),
    }
    seconds, _ = measure(ways, repeats)
    report(f"store, write {data.nbytes / 1e6:.0f} MB", seconds, data.nbytes / 1e6, "MB", ".npy files")


def read(root: Path, data: Half, order: str, at: NDArray[np.int64], repeats: int) -> None:
    """Time reading the rows `at`, in batches of 32, of what `write` left."""
    batches, views = [at[start : start + 32] for start in range(0, len(at), 32)], data.shape[1]
    ways: Ways = {
        "uld": lambda: read_store(root / "store" / "x.zarr", batches, views),
        ".npy files": lambda: read_files(root / "files", batches, views),
    }
    seconds, found = measure(ways, repeats)
    same("store", *found.values(), rtol=1e-6, atol=1e-3)
    report(f"store, read {data.nbytes / 1e6:.0f} MB {order}", seconds, data.nbytes / 1e6, "MB", ".npy files")


def write_rows(root: Path, data: Half, repeats: int) -> None:
    """Time whole shards against single rows."""
    ways: Ways = {
        "uld": lambda: build(fresh(root, "few"), data),
        "row by row": lambda: row_by_row(fresh(root, "rows"), data),
    }
    seconds, _ = measure(ways, repeats)
    for name in NAMES:
        one, other = (zarr.open_array(root / place / "x.zarr" / name, mode="r") for place in ("few", "rows"))
        same(name, one[:], np.asarray(other[:]).reshape(one.shape))
    report(f"store, write {data.nbytes / 1e6:.0f} MB", seconds, data.nbytes / 1e6, "MB", "row by row")


def verify(root: Path, data: Half, repeats: int) -> None:
    """Time reading all of what `write` left once, against the same without checksums."""
    batches, views = np.array_split(np.arange(len(data)), max(1, len(data) // 32)), data.shape[1]

    def plain(opened: FeatureStore, name: str, number: int) -> Half:
        return np.memmap(root / f"store/x.zarr/{name}/c/{number}/0/0/0", "<f2", "r", shape=opened._shapes[name])

    def unverified() -> float:
        with mock.patch.object(FeatureStore, "_whole_chunk", plain):
            return read_store(root / "store" / "x.zarr", batches, views)

    ways: Ways = {"uld": lambda: read_store(root / "store" / "x.zarr", batches, views), "unverified": unverified}
    seconds, found = measure(ways, repeats)
    same("store", *found.values())
    report("store, read once, checksums verified", seconds, data.nbytes / 1e6, "MB", "unverified")


def verify_crops(root: Path, count: int, repeats: int) -> None:
    """The same of crops, smooth ones of 64 pixels."""
    shape = (count, 64, 64, 3)
    rough = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(rough, (64, 64), mode="bicubic").clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).numpy()
    ours, alone = (zarr.open_group(root / name, mode="w") for name in ("crops", "plain"))
    chunks, shards = (1, *shape[1:]), (cut.SHARD, *shape[1:])
    codec = BloscCodec(cname="zstd", clevel=3)
    plain = alone.create_array("x", shape=shape, dtype=np.uint8, compressors=codec, chunks=chunks, shards=shards)
    arrays = {"uld": cut._array(ours, "x", shape, np.uint8), "unverified": plain}
    for array in arrays.values():
        array[:] = smooth
    seconds, found = measure({name: lambda a=array: a[:] for name, array in arrays.items()}, repeats)
    same("crops", *found.values())
    report("crops, read, checksums verified", seconds, smooth.nbytes / 1e6, "MB", "unverified")


class InTurn:
    """Stands in for the thread that writes: the work is done before `submit` returns."""

    def __init__(self, *args: object) -> None:
        pass

    def __enter__(self) -> "InTurn":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do the work."""
        done: Future[Any] = Future()
        done.set_result(work(*args))
        return done


def timeline(folder: Path, shapes: dict[str, tuple[int, int, int]], rows: int, seconds: float) -> tuple[float, float]:
    """Fill a store from a device that takes `seconds` a view, the CPU being free: whole time, and the wait in it.

    It waits from when it has a batch until it may begin the next one, or all is written.
    """
    begun, waited, free = time.perf_counter(), 0.0, 0.0
    noise = torch.Generator().manual_seed(0)
    # in half precision: it is the device that converts them
    values = {name: torch.randn(8, *shape, generator=noise).half() for name, shape in shapes.items()}

    def compute(first: int, end: int) -> Iterator[Features]:
        nonlocal waited, free
        for start in range(0, end - first, 8):
            count = min(8, end - first - start)
            waited += time.perf_counter() - free if free else 0.0
            time.sleep(seconds * count)
            free = time.perf_counter()
            yield {name: value[:count] for name, value in values.items()}

    fill(folder, rows, 1, compute, shapes)
    ended = time.perf_counter()
    return ended - begun, waited + ended - free


def stalls(root: Path, shapes: dict[str, tuple[int, int, int]], rows: int, seconds: float, repeats: int) -> None:
    """Share of the time in which the device waits for the writer."""

    found: dict[str, list[tuple[float, float]]] = {"uld": [], "in turn": []}

    def ours() -> None:
        found["uld"].append(timeline(fresh(root, "uld"), shapes, rows, seconds))

    def in_turn() -> None:
        with mock.patch.object(building, "ThreadPoolExecutor", InTurn):
            found["in turn"].append(timeline(fresh(root, "in turn"), shapes, rows, seconds))

    took, _ = measure({"uld": ours, "in turn": in_turn}, repeats)
    files = [sorted(f for f in (root / place / "x.zarr").rglob("*") if f.is_file()) for place in found]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))
    topic = f"store, {rows} views of {seconds * 1e3:.0f} ms"
    for name, runs in found.items():
        share = np.median([waited / whole for whole, waited in runs[-repeats:]])
        print(f"{topic}: {name}: stalled {share:.1%} of the time")
    report(topic, took, rows, "views", "in turn")


def main(small: bool) -> None:
    rows, few, views, repeats = (8, 4, 2, 1) if small else (640, 32, 4, 3)
    shape = (len(NAMES), 8, 4, 4) if small else (len(NAMES), 64, 16, 16)
    rng = random.rng(0, "bench-store")
    data = rng.normal(size=(rows, views, *shape)).astype(np.float16)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, data, repeats)
        read(root, data, "in order", np.arange(rows), repeats)
        read(root, data, "shuffled", rng.permutation(rows), repeats)
        verify(root, data, repeats)
        verify_crops(root, 8 if small else 4000, repeats)
        write_rows(root, data[:few], repeats)
        if small:
            with mock.patch.object(building, "SHARD_BYTES", 20_000):
                stalls(root, dict.fromkeys(NAMES, shape[1:]), 80, 1e-4, repeats)
        else:
            stalls(root, SD15, 400, PASS, repeats)


if __name__ == "__main__":
    run(main)
