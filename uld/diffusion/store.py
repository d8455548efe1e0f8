"""The feature store: zarr v3, raw chunks of whole rows, resumable by finished chunk row ("shard").

Training reads single views in random order, for which a chunk a view costs a millisecond each in zarr. Chunks are
therefore not compressed (float16 features hardly shrink) and hold many rows: any zarr reader opens them, and this one
maps them into memory.

Layout in docs/artifacts.md. A store is built in the scratch folder of its identity and moved into place when complete,
so a store under its final name is always whole. A shard is written part by part, as it is computed, by a thread: while
it writes one batch the next one is computed. A run that is asked to stop loses nothing that it has computed; one that
is killed, or whose disk is full, loses the shard that it is at.
"""

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from uld.base import ranks, runtime, stop
from uld.base.errors import ArtifactError

SHARD_BYTES = 64 * 2**20  # of up to FEW arrays together: what is computed again after a kill
FEW = 16  # more arrays have larger shards: each has a file a shard, and millions of files are no good
IN_FLIGHT = 2  # batches in memory: the one being computed and the one being written
OPEN_MAPS = 8192  # chunk files mapped at a time: systems allow some 65,000 in a process
INFINITE = np.uint16(0x7C00)  # the exponent of what is not finite in float16

LATENT = "latent"  # the array of a store that keeps what features are computed from (`online.LatentStore`)

Features = dict[str, torch.Tensor]
Half = NDArray[np.float16]
Part = dict[str, Half]  # some items, which are rows in one view each: {name: (items, C, h, w)}


class Chunk(NamedTuple):
    """The file of one chunk that is being written, and its shape (rows, V, C, h, w)."""

    file: IO[bytes]
    shape: tuple[int, ...]


class FeatureStore:
    """Read access to a complete store; rows and views as in docs/artifacts.md."""

    def __init__(self, path: Path) -> None:
        """Open for reading.

        Raises:
            ArtifactError: the store is missing or was not finished.
        """
        if not path.is_dir():
            raise ArtifactError(f"{path} is missing: run `dvc repro features` first.")
        self._group = zarr.open_group(path, mode="r")
        if "spec" not in self._group.attrs:
            raise ArtifactError(f"{path} is incomplete: delete it and run `dvc repro features`.")
        self.path = path
        self.spec: dict[str, Any] = dict(self._group.attrs["spec"])  # type: ignore[arg-type]
        self.views = np.array(self._group.attrs["views"], dtype=np.float64)  # (V, 2, 3), crop -> view
        self.mirrored = np.array(self._group.attrs["mirrored"], dtype=bool)  # (V,)
        self._shard = int(self.spec["shard"])
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the chunks
        self._maps: dict[tuple[str, int], NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return int(self.spec["rows"])

    @property
    def names(self) -> list[str]:
        """Array names in the order of the spec."""
        return list(self.spec["arrays"])

    def read(self, rows: NDArray[np.int64], view: int = 0, names: list[str] | None = None) -> Features:
        """{name: (B, C, h, w) float32} of the given rows in one view.

        Args:
            names: feature maps that are wanted; None: all.
        """
        return self.views_of(rows, np.full(len(rows), view), self.names if names is None else names)

    def views_of(self, rows: NDArray[np.int64], views: NDArray[np.int64], names: list[str]) -> Features:
        """{name: (B, C, h, w) float32} of B images, each in its own view."""
        places = list(zip(*np.divmod(rows, self._shard), views, strict=True))
        return {
            name: torch.from_numpy(np.stack([self._map(name, int(i))[row, view] for i, row, view in places])).float()
            for name in names
        }

    def _map(self, name: str, number: int) -> NDArray[np.float16]:
        """Rows of one chunk (rows, V, C, h, w), mapped into memory."""
        opened = self._maps.get((name, number))
        if opened is None:
            if len(self._maps) >= OPEN_MAPS:
                self._maps.clear()  # and another thread may do so at any time
            if name not in self._shapes:
                array = self._group[name]
                assert isinstance(array, zarr.Array)
                self._shapes[name] = tuple(array.chunks)
            file = self.path / name / "c" / f"{number}/0/0/0/0"
            opened = self._maps[name, number] = np.memmap(file, "<f2", "r", shape=self._shapes[name])
        return opened

    def check(self, **expected: Any) -> None:
        """Refuse a store that was made with other settings, naming each key that differs."""
        differ = [
            f"{k}: store has {self.spec.get(k)!r}, wanted {v!r}" for k, v in expected.items() if self.spec.get(k) != v
        ]
        if differ:
            raise ArtifactError(f"{self.path} does not fit ({'; '.join(differ)}): run `dvc repro features`.")


def build(
    path: Path,
    scratch: Path,
    spec: dict[str, Any],
    views: NDArray[np.float64],
    mirrored: NDArray[np.bool_],
    compute: Callable[[int, int], Iterator[tuple[int, Features]]],
    shapes: dict[str, tuple[int, int, int]],
) -> None:
    """Fill a store shard by shard and move it to `path`.

    `compute` runs in the calling thread and is kept waiting only if a part takes longer to write than the next one to
    compute, and for the last part of a shard, which counts as finished when all of it is written.

    Args:
        spec: JSON tree of everything that defines the values; `rows` (N) and `arrays` are added.
        compute: (first row, end row) -> pairs (first item, {name: (items, C, h, w)}) that together cover these rows.
            An item is a row in one view: the first row in all views, the second one in all views, and so on, from 0.
        shapes: {name: (C, h, w)}.

    Raises:
        runtime.Interrupted: asked to stop; the finished shards stay in `scratch`.
        ArtifactError: a value is not finite or overflows float16.
        OSError: a shard could not be written; the ones before it stay in `scratch`.
    """
    count, rows = len(views), int(spec["rows"])
    shard = min(rows, shard_rows(shapes, count))  # a chunk file has its full size however few rows there are
    spec = spec | {"arrays": list(shapes), "shard": shard}
    partial = scratch / "store.zarr"
    if runtime.process() == 0:
        _open_partial(partial, shapes, rows, count, shard)
    ranks.wait()
    starts = range(0, rows, shard)
    left = [a for a in starts if not _marker(scratch, a).exists()]
    ranks.wait()  # until all have counted
    todo = left[runtime.process() :: runtime.processes()]
    with (
        stop.interruptible() as interrupt,
        _progress(rows, rows - sum(min(shard, rows - a) for a in left)) as advance,
    ):
        for first in todo:
            if interrupt:
                break
            end = min(first + shard, rows)
            with _open_shard(partial, first // shard, shard, count, shapes) as chunks:
                _write_shard(chunks, first, end, compute(first, end), advance)
            _marker(scratch, first).touch()
        if interrupt and not all(_marker(scratch, a).exists() for a in todo):
            kept = sum(_marker(scratch, a).exists() for a in starts)
            raise stop.Interrupted(f"{kept} of {len(starts)} shards are kept; run again to go on.")
    ranks.wait()
    if runtime.process():
        return
    zarr.open_group(partial, mode="r+").attrs.update(
        {"spec": spec, "views": views.tolist(), "mirrored": mirrored.tolist()}
    )
    for extra in scratch.glob("*.safetensors"):  # the reduction travels with the values it made
        shutil.copy(extra, partial)
    _publish(partial, path)
    shutil.rmtree(scratch)


def _publish(partial: Path, path: Path) -> None:
    """Give a whole store its final name in one step, even if the scratch folder is on another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = path.with_name(f".{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(partial, part)
        os.replace(part, path)
        os.replace(partial, partial.with_name("moved.zarr"))  # never resume from what is being deleted


def shard_rows(shapes: dict[str, tuple[int, int, int]], views: int) -> int:
    """Rows a shard, so that its arrays stay near `SHARD_BYTES`."""
    row = 2 * views * sum(int(np.prod(s)) for s in shapes.values())
    return max(1, SHARD_BYTES * max(FEW, len(shapes)) // (FEW * row))


def _open_partial(path: Path, shapes: dict[str, tuple[int, int, int]], rows: int, views: int, shard: int) -> None:
    """Make the store that is to be filled, unless an interrupted run has."""
    if path.exists():
        return
    for stale in path.parent.glob("done-*"):  # of a store that was moved away, killed before it cleaned up
        stale.unlink()
    building = path.with_name("creating.zarr")
    shutil.rmtree(building, ignore_errors=True)
    group = zarr.open_group(building, mode="w")
    for name, (c, h, w) in shapes.items():
        group.create_array(
            name,
            shape=(rows, views, c, h, w),
            chunks=(shard, views, c, h, w),
            dtype="<f2",
            compressors=None,
            fill_value=float("nan"),
        )
    os.replace(building, path)  # all arrays or none: a kill in between leaves nothing to resume from


@contextlib.contextmanager
def _open_shard(
    path: Path, number: int, rows: int, views: int, shapes: dict[str, tuple[int, int, int]]
) -> Iterator[dict[str, Chunk]]:
    """A chunk file of each array, empty whatever a killed run left there."""
    with contextlib.ExitStack() as stack:
        chunks = {}
        for name, shape in shapes.items():
            file = path / name / "c" / f"{number}/0/0/0/0"
            file.parent.mkdir(parents=True, exist_ok=True)
            chunks[name] = Chunk(stack.enter_context(file.open("wb", buffering=0)), (rows, views, *shape))
        yield chunks


def _write_shard(
    chunks: dict[str, Chunk],
    first: int,
    end: int,
    parts: Iterator[tuple[int, Features]],
    advance: Callable[[float], None],
) -> None:
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "writer") as writer:  # whatever happens, it ends before the files are closed
        for offset, features in parts:
            part = {name: value.half().cpu().numpy() for name, value in features.items()}
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, chunks, offset, part, f"of rows {first}..{end - 1}")
            advance(len(next(iter(part.values()))) / next(iter(chunks.values())).shape[1])
        if writing is not None:
            writing.result()
    for chunk in chunks.values():  # zarr fills what the last one has beyond its rows
        rest = (chunk.shape[0] - end + first, *chunk.shape[1:])
        _put(chunk, (end - first) * chunk.shape[1], np.full(rest, np.nan, np.float16))


def _write(chunks: dict[str, Chunk], offset: int, part: Part, place: str) -> None:
    for name, values in part.items():
        if ((values.view(np.uint16) & INFINITE) == INFINITE).any():  # ten times as fast as isfinite on half precision
            raise ArtifactError(
                f"features {name} {place} are not finite in float16: "
                "set readout.dtype to float32, or choose other layers."
            )
        _put(chunks[name], offset, values)


def _put(chunk: Chunk, place: int, values: Half) -> None:
    """Write values from item `place` on."""
    left = np.ascontiguousarray(values, "<f2").reshape(-1).view(np.uint8).data
    chunk.file.seek(2 * place * math.prod(chunk.shape[2:]))
    while left:  # a system writes as much as it can at a time
        left = left[chunk.file.write(left) :]


def _marker(scratch: Path, first: int) -> Path:
    return scratch / f"done-{first:09d}"


class _progress:  # noqa: N801 - a context manager used like a function
    """Bar with images, elapsed and remaining time; silent where there is no terminal but for a line at the end."""

    def __init__(self, total: int, done: int) -> None:
        columns = (
            TextColumn("features"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("features", total=total, completed=done)

    def __enter__(self) -> Callable[[float], None]:
        self._bar.start()
        return lambda amount: self._bar.advance(self._task, amount)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
