"""Build a feature store, resumable by finished chunk ("shard").

A store is built in the scratch folder of its identity and moved into place when complete, so a store under its final
name is always whole. A shard is written part by part, as it is computed, by a thread: while it writes one batch the
next one is computed. A run that is asked to stop loses nothing that it has computed; one that is killed, or whose disk
is full, loses the shard that it is at.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray

from uld.base import progress, ranks, runtime, stop
from uld.base.errors import ArtifactError
from uld.base.writing import atomic_folder, remove, sync_folder, write
from uld.diffusion.store import BACKBONE, CHECKSUMS, ITEMS, Features, Layout, chunk_file

SHARD_BYTES = 64 * 2**20  # of up to FEW arrays together: what is computed again after a kill
FEW = 16  # more arrays have larger shards: each has a file a shard, and millions of files are no good
IN_FLIGHT = 2  # batches in memory: the one being computed and the one being written
INFINITE = np.uint16(0x7C00)  # the exponent of what is not finite in float16

Half = NDArray[np.float16]
Part = dict[str, Half]  # some items: {name: (items, C, h, w)}
Shapes = dict[str, tuple[int, int, int]]  # {name: (C, h, w)}
Compute = Callable[[int, int], Iterator[Features]]  # see `build`


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


@contextlib.contextmanager
def _open_shard(path: Path, number: int, items: int, shapes: Shapes) -> Iterator[dict[str, Chunk]]:
    """A chunk file of each array, empty whatever a killed run left there."""
    with contextlib.ExitStack() as stack:
        chunks = {}
        for name, shape in shapes.items():
            file = chunk_file(path, name, number)
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
