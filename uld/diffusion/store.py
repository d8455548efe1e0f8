"""The feature store: zarr v3, raw chunks of whole items, resumable by finished chunk ("shard").

An item is an image in one view. Training images have the views of the bank, test images the untouched one and the
evaluation's warps, so items are listed and not laid out as rows times views.

Training reads single items in random order, for which a chunk an item costs a millisecond each in zarr. Chunks are
therefore not compressed (float16 features hardly shrink) and hold many items: any zarr reader opens them, and this one
maps them into memory.

Layout in docs/artifacts.md. A store is built in the scratch folder of its identity and moved into place when complete,
so a store under its final name is always whole. A shard is written part by part, as it is computed, by a thread: while
it writes one batch the next one is computed. A run that is asked to stop loses nothing that it has computed; one that
is killed, or whose disk is full, loses the shard that it is at.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from uld.artifacts.files import checksum, contents, damaged
from uld.base import progress, ranks, runtime, stop
from uld.base.errors import ArtifactError
from uld.base.writing import atomic_folder, remove, sync_folder, write
from uld.geometry.coords import Affine

SHARD_BYTES = 64 * 2**20  # of up to FEW arrays together: what is computed again after a kill
FEW = 16  # more arrays have larger shards: each has a file a shard, and millions of files are no good
PIECE = 2**17  # numbers of a chunk that are verified at a time
IN_FLIGHT = 2  # batches in memory: the one being computed and the one being written
OPEN_MAPS = 8192  # chunk files mapped at a time: systems allow some 65,000 in a process
INFINITE = np.uint16(0x7C00)  # the exponent of what is not finite in float16

CHECKSUMS = "checksums"  # attribute of a store: of the chunks of each array
LATENT = "latent"  # the array of a store that keeps what features are computed from (`online.LatentStore`)
ITEMS = "items"  # the array that says which image and view an item is
BACKBONE = "backbone"  # the folder in a store that holds the network which made it

Features = dict[str, torch.Tensor]
Half = NDArray[np.float16]
Part = dict[str, Half]  # some items: {name: (items, C, h, w)}
Shapes = dict[str, tuple[int, int, int]]  # {name: (C, h, w)}
Compute = Callable[[int, int], Iterator[Features]]  # see `build`


@dataclass(frozen=True)
class Layout:
    """Which images a store holds in which views.

    views (V, 2, 3): crop -> view affines; 0 is the untouched crop. flipped (V,) bool: mirrored views. bank: B, views
    0..B-1 are the training bank and the others the evaluation's warps. items (I, 2) int64: row of boxes.csv and view of
    each item, sorted by row, then view.
    """

    views: Affine
    flipped: NDArray[np.bool_]
    bank: int
    items: NDArray[np.int64]

    @property
    def fingerprint(self) -> str:
        """Checksum of the items: another split of the images has another one."""
        return checksum(np.ascontiguousarray(self.items, "<i8").tobytes())

    def lookup(self, rows: int) -> NDArray[np.int64]:
        """(N, V): the item that holds an image in a view; -1 where none does."""
        table = np.full((rows, len(self.views)), -1)
        table[self.items[:, 0], self.items[:, 1]] = np.arange(len(self.items))
        return table


def lay_out(bank: Affine, flipped: NDArray[np.bool_], warps: Affine, train: NDArray[np.bool_]) -> Layout:
    """Training images in all views of the bank; test images in the untouched view and under each warp.

    Args:
        bank: (B, 2, 3), the first one untouched. flipped: (B,), which of them are mirrored. warps: (E, 2, 3).
        train: (N,), False for test images.
    """
    both = np.concatenate([bank, warps.reshape(-1, 2, 3)])
    number = np.arange(len(both))
    held = np.where(train[:, None], number < len(bank), (number == 0) | (number >= len(bank)))
    none = np.zeros(len(both) - len(bank), dtype=bool)  # warps are never mirrored
    return Layout(both, np.concatenate([flipped, none]), len(bank), np.argwhere(held))


class Chunk:
    """The file of one chunk (items, C, h, w) that is being written from its first item on, and its checksum so far."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...]) -> None:
        self.shape, self.crc = shape, 0
        self._file, self._items = file, 0

    def write(self, values: Half) -> None:
        """Add items."""
        self._items += len(values)
        data = np.ascontiguousarray(values, "<f2").tobytes()
        self.crc = google_crc32c.extend(self.crc, data)
        left = memoryview(data)
        while left:  # a system writes as much as it can at a time
            left = left[self._file.write(left) :]

    def fill(self) -> None:
        """Give the chunk its full size, as zarr does: the last one has fewer items than the others."""
        self.write(np.full((self.shape[0] - self._items, *self.shape[1:]), np.nan, np.float16))

    def sync(self) -> None:
        """Have it on the disk: what counts as finished must outlast a loss of power."""
        os.fsync(self._file.fileno())


class FeatureStore:
    """Read access to a complete store; rows and views as in docs/artifacts.md."""

    def __init__(self, path: Path) -> None:
        """Open for reading.

        Raises:
            ArtifactError: the store is missing, was not finished, or has the layout of an older version.
        """
        contents(path / "zarr.json", "features")
        try:
            self._group = zarr.open_group(path, mode="r")
            attributes: dict[str, Any] = dict(self._group.attrs)
            for key, what in (("spec", "is incomplete"), (CHECKSUMS, "was made by an older version")):
                if key not in attributes:
                    raise ArtifactError(f"{path} {what}: delete it and run `dvc repro features`.")
            self.layout = _layout(self._group)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(path, "features", error) from error
        self.path = path
        self.spec: dict[str, Any] = attributes["spec"]
        self._checksums: dict[str, list[str]] = attributes[CHECKSUMS]
        if self.layout.fingerprint != self.spec["items"]:
            raise damaged(path, "features", "its items have another checksum")
        self._item = self.layout.lookup(len(self))
        self._shard = int(self.spec["shard"])
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the chunks
        self._maps: dict[tuple[str, int], NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return int(self.spec["rows"])

    @property
    def views(self) -> Affine:
        """(V, 2, 3), crop -> view: those of the bank, then the evaluation's warps."""
        return self.layout.views

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """(V,): the views that are mirrored."""
        return self.layout.flipped

    @property
    def bank(self) -> int:
        """B: training images have views 0..B-1, test images have view 0 and views B..V-1."""
        return self.layout.bank

    @property
    def digest(self) -> str:
        """Checksum of what is stored."""
        return str(self.spec["digest"])

    @property
    def names(self) -> list[str]:
        """Array names in the order of the spec."""
        return list(self.spec["arrays"])

    def read(self, rows: NDArray[np.int64], view: int = 0, names: list[str] | None = None) -> Features:
        """{name: (B, C, h, w) float32} of the given rows in one view.

        Args:
            names: feature maps that are wanted; None: all.

        Raises:
            ArtifactError: an image is not stored in this view.
        """
        return self.views_of(rows, np.full(len(rows), view), self.names if names is None else names)

    def views_of(self, rows: NDArray[np.int64], views: NDArray[np.int64], names: list[str]) -> Features:
        """{name: (B, C, h, w) float32} of B images, each in its own view.

        Raises:
            ArtifactError: an image is not stored in its view.
        """
        places = list(zip(*np.divmod(self._items(rows, views), self._shard), strict=True))
        return {
            name: torch.from_numpy(np.stack([self._map(name, int(n))[at] for n, at in places])).float()
            for name in names
        }

    def _items(self, rows: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,): where images are stored."""
        known = (rows >= 0) & (rows < len(self)) & (views >= 0) & (views < len(self.views))
        items = np.where(known, self._item[np.where(known, rows, 0), np.where(known, views, 0)], -1)
        if (items < 0).any():
            absent = int((items < 0).argmax())
            raise ArtifactError(
                f"{self.path} does not hold image row {rows[absent]} in view {views[absent]}: of {len(self)} images, "
                f"training images have views 0 to {self.bank - 1}, the bank, and test images view 0 and those from "
                f"{self.bank} to {len(self.views) - 1}, the evaluation's warps."
            )
        return items

    def _map(self, name: str, number: int) -> NDArray[np.float16]:
        """Items of one chunk (items, C, h, w), mapped into memory."""
        opened = self._maps.get((name, number))
        if opened is None:
            if len(self._maps) >= OPEN_MAPS:
                self._maps.clear()  # and another thread may do so at any time
            if name not in self._shapes:
                array = self._group[name]
                assert isinstance(array, zarr.Array)
                self._shapes[name] = tuple(array.chunks)
            opened = self._maps[name, number] = self._whole_chunk(name, number)
        return opened

    def _whole_chunk(self, name: str, number: int) -> NDArray[np.float16]:
        """One chunk, mapped into memory and verified."""
        file = _chunk_file(self.path, name, number)
        try:
            found = np.memmap(file, "<f2", "r", shape=self._shapes[name])
        except (OSError, ValueError) as error:
            raise damaged(file, "features", error) from error
        if _checksum(found) != self._checksums[name][number]:
            raise damaged(file, "features", "its checksum is another one")
        return found

    def check(self, **expected: Any) -> None:
        """Refuse a store that was made with other settings, naming each key that differs."""
        differ = [
            f"{k}: store has {self.spec.get(k)!r}, wanted {v!r}" for k, v in expected.items() if self.spec.get(k) != v
        ]
        if differ:
            raise ArtifactError(f"{self.path} does not fit ({'; '.join(differ)}): run `dvc repro features`.")


def _checksum(chunk: NDArray[np.float16]) -> str:
    """As `checksum`, of a mapped file: in pieces that stay in the processor's cache, as each has to be copied."""
    crc, data = 0, chunk.reshape(-1)
    for start in range(0, len(data), PIECE):
        crc = google_crc32c.extend(crc, data[start : start + PIECE].tobytes())
    return f"{crc:08x}"


def _layout(group: zarr.Group) -> Layout:
    """The layout of a whole store."""
    attributes: Any = group.attrs
    views, flipped = np.array(attributes["views"], dtype=np.float64), np.array(attributes["flipped"], dtype=bool)
    array: Any = group[ITEMS]
    return Layout(views, flipped, int(attributes["bank"]), np.asarray(array[:], dtype=np.int64))


def build(
    path: Path,
    scratch: Path,
    spec: dict[str, Any],
    layout: Layout,
    backbone: Path,
    compute: Compute,
    shapes: Shapes,
) -> None:
    """Fill a store shard by shard and move it to `path`.

    `compute` runs in the calling thread and is kept waiting only if a part takes longer to write than the next one to
    compute, and for the last part of a shard, which counts as finished when all of it is written.

    Args:
        spec: JSON tree of everything that defines the values, with `rows` (N); `arrays`, `shard` (items a chunk) and
            `digest`, a checksum of the values, are added.
        layout: which items there are, of N images.
        backbone: folder of the network that makes the values; a copy of it goes into the store.
        compute: (first item, end item) -> parts {name: (items, C, h, w)}, which together are these items, in order.

    Raises:
        runtime.Interrupted: asked to stop; the finished shards stay in `scratch`.
        ArtifactError: a value is not finite or overflows float16.
        OSError: a shard could not be written; the ones before it stay in `scratch`.
    """
    items = len(layout.items)
    shard = min(items, shard_items(shapes))  # a chunk file has its full size however few items there are
    partial, starts = scratch / "store.zarr", range(0, items, shard)
    if runtime.process() == 0:
        _open_partial(partial, shapes, layout.items, shard)
    ranks.wait()
    left = [a for a in starts if not _finished(scratch, a, shapes)]
    ranks.wait()  # until all have counted
    todo = left[runtime.process() :: runtime.processes()]
    done = items - sum(min(shard, items - a) for a in left)
    with stop.interruptible() as interrupt, progress.bar("features", items, done) as advance:
        for first in todo:
            if interrupt:
                break
            end = min(first + shard, items)
            rows = layout.items[[first, end - 1], 0]
            with _open_shard(partial, first // shard, shard, shapes) as chunks:
                _write_shard(chunks, "of rows {}..{}".format(*rows), compute(first, end), advance)
            _finish(scratch, first, chunks)
        if interrupt and not all(_finished(scratch, a, shapes) for a in todo):
            kept = sum(_finished(scratch, a, shapes) for a in starts)
            raise stop.Interrupted(f"{kept} of {len(starts)} shards are kept; run again to go on.")
    ranks.wait()
    if runtime.process() == 0:
        own = {"arrays": list(shapes), "shard": shard, "items": layout.fingerprint, "digest": _digest(scratch, starts)}
        _complete(partial, spec | own, layout, _checksums(scratch, starts), backbone)
        _publish(partial, path)
        shutil.rmtree(scratch)


def _digest(scratch: Path, starts: range) -> str:
    """One checksum out of those of all shards, in their order: another size of shards gives another one."""
    return hashlib.sha256("".join(_marker(scratch, a).read_text() for a in starts).encode()).hexdigest()


def _checksums(scratch: Path, starts: range) -> dict[str, list[str]]:
    """Of the chunks of each array, in order."""
    found: dict[str, list[str]] = {}
    for first in starts:
        for line in _marker(scratch, first).read_text().splitlines():
            name, crc = line.split()
            found.setdefault(name, []).append(crc)
    return found


def _complete(
    partial: Path, spec: dict[str, Any], layout: Layout, checksums: dict[str, list[str]], backbone: Path
) -> None:
    """Add what makes a filled store a whole one, and what made its values."""
    shutil.rmtree(partial / BACKBONE, ignore_errors=True)  # of a run that was killed here
    shutil.copytree(backbone, partial / BACKBONE)
    for extra in partial.parent.glob("*.safetensors"):  # the reduction travels with the values it made
        shutil.copy(extra, partial)
    views, flipped = layout.views.tolist(), layout.flipped.tolist()
    own = {"spec": spec, "views": views, "flipped": flipped, "bank": layout.bank, CHECKSUMS: checksums}
    zarr.open_group(partial, mode="r+").attrs.update(own)
    sync_folder(partial)


def _publish(partial: Path, path: Path) -> None:
    """Give a whole store its final name in one step, even if the scratch folder is on another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)
    try:
        os.replace(partial, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_folder(path) as part:
            shutil.copytree(partial, part, dirs_exist_ok=True)
        os.replace(partial, partial.with_name("moved.zarr"))  # never resume from what is being deleted


def shard_items(shapes: Shapes) -> int:
    """Items a shard, so that its arrays stay near `SHARD_BYTES`."""
    item = 2 * sum(int(np.prod(s)) for s in shapes.values())
    return max(1, SHARD_BYTES * max(FEW, len(shapes)) // (FEW * item))


def _open_partial(path: Path, shapes: Shapes, items: NDArray[np.int64], shard: int) -> None:
    """Make the store that is to be filled, unless an interrupted run has."""
    if path.exists() and _can_be_filled(path, shapes):
        return
    for stale in path.parent.glob("done-*"):  # of a store that was moved away, killed before it cleaned up
        stale.unlink()
    with atomic_folder(path) as building:  # all arrays or none: a kill in between leaves nothing to resume from
        group = zarr.open_group(building, mode="w")
        for name, shape in shapes.items():
            group.create_array(
                name,
                shape=(len(items), *shape),
                chunks=(shard, *shape),
                dtype="<f2",
                compressors=None,
                fill_value=float("nan"),
            )
        group.create_array(ITEMS, data=items.astype("<i4"), chunks=items.shape, compressors=None)


def _can_be_filled(path: Path, shapes: Shapes) -> bool:
    """Whether an unfinished store can be read; one that cannot is put aside with a line."""
    try:
        group = zarr.open_group(path, mode="r")
        if {ITEMS, *shapes} <= set(group.array_keys()):
            return True
        reason: object = "it lacks arrays"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error
    aside = path.with_name(f"{path.name}.aside")
    remove(aside)
    os.replace(path, aside)
    print(f"warning: the features begin anew: {path} is damaged ({reason}). It is kept as {aside}.", flush=True)
    return False


def _chunk_file(path: Path, name: str, number: int) -> Path:
    return path / name / "c" / f"{number}/0/0/0"


@contextlib.contextmanager
def _open_shard(path: Path, number: int, items: int, shapes: Shapes) -> Iterator[dict[str, Chunk]]:
    """A chunk file of each array, empty whatever a killed run left there."""
    with contextlib.ExitStack() as stack:
        chunks = {}
        for name, shape in shapes.items():
            file = _chunk_file(path, name, number)
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = stack.enter_context(file.open("wb", buffering=0))
            chunks[name] = Chunk(opened, (items, *shape))
        yield chunks
        for chunk in chunks.values():
            chunk.sync()


def _write_shard(
    chunks: dict[str, Chunk], place: str, parts: Iterator[Features], advance: Callable[[int], None]
) -> None:
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "writer") as writer:  # whatever happens, it ends before the files are closed
        for features in parts:
            part = {name: value.half().cpu().numpy() for name, value in features.items()}
            if writing is not None:
                writing.result()
            writing = writer.submit(_write, chunks, part, place)
            advance(len(next(iter(part.values()))))
        if writing is not None:
            writing.result()
    for chunk in chunks.values():
        chunk.fill()


def _write(chunks: dict[str, Chunk], part: Part, place: str) -> None:
    for name, values in part.items():
        if ((values.view(np.uint16) & INFINITE) == INFINITE).any():  # ten times as fast as isfinite on half precision
            raise ArtifactError(
                f"features {name} {place} are not finite in float16: "
                "set readout.dtype to float32, or choose other layers."
            )
        chunks[name].write(values)


def _marker(scratch: Path, first: int) -> Path:
    return scratch / f"done-{first:09d}"


def _finished(scratch: Path, first: int, shapes: Shapes) -> bool:
    """Whether a shard is written, and its note whole: a line an array."""
    note = _marker(scratch, first)
    return note.exists() and [line.split(" ")[0] for line in note.read_text().splitlines()] == list(shapes)


def _finish(scratch: Path, first: int, chunks: dict[str, Chunk]) -> None:
    """Note that a shard is written, and the checksums of its arrays."""
    write(_marker(scratch, first), "".join(f"{name} {chunk.crc:08x}\n" for name, chunk in chunks.items()).encode())
