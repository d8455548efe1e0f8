"""The feature store: zarr v3, raw chunks of whole items. `building.py` makes one.

An item is an image in one view. Training images have the views of the bank, test images the untouched one and the
evaluation's warps, so items are listed and not laid out as rows times views.

Training reads single items in random order, for which a chunk an item costs a millisecond each in zarr. Chunks are
therefore not compressed (float16 features hardly shrink) and hold many items: any zarr reader opens them, and this one
maps them into memory. Layout in docs/artifacts.md.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from uld.artifacts.files import checksum, contents, damaged
from uld.base.errors import ArtifactError
from uld.geometry.coords import Affine

PIECE = 2**17  # numbers of a chunk that are verified at a time
OPEN_MAPS = 8192  # chunk files mapped at a time: systems allow some 65,000 in a process

CHECKSUMS = "checksums"  # attribute of a store: of the chunks of each array
LATENT = "latent"  # the array of a store that keeps what features are computed from (`online.LatentStore`)
ITEMS = "items"  # the array that says which image and view an item is
BACKBONE = "backbone"  # the folder in a store that holds the network which made it

Features = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """Which images a store holds in which views.

    views (V, 2, 3): crop -> view affines; 0 is the untouched crop. flipped (V,) bool: mirrored views. bank: B, views
    0..B-1 are the training bank, the others the evaluation's warps and, where they are stored, mirror images of test
    views. items (I, 2) int64: row of boxes.csv and view of each item, sorted by row, then view.
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


def lay_out(
    bank: Affine,
    flipped: NDArray[np.bool_],
    warps: Affine,
    train: NDArray[np.bool_],
    mirrors: Affine | None = None,
) -> Layout:
    """Training images in all views of the bank; test images in the untouched view and under each warp.

    Args:
        bank: (B, 2, 3), the first one untouched. flipped: (B,), which of them are mirrored. warps: (E, 2, 3).
        train: (N,), False for test images. mirrors: (1 + E, 2, 3), the views of test images in a mirror, of which
            training images have the first too; None: they are not stored.
    """
    others = np.empty((0, 2, 3)) if mirrors is None else mirrors
    all_views = np.concatenate([bank, warps.reshape(-1, 2, 3), others])
    number, end = np.arange(len(all_views)), len(bank) + len(warps)
    of_test = (number == 0) | (number >= len(bank))
    of_train = (number < len(bank)) | (number == end)
    flags = np.concatenate([flipped, np.zeros(len(warps), dtype=bool), np.ones(len(others), dtype=bool)])
    return Layout(all_views, flags, len(bank), np.argwhere(np.where(train[:, None], of_train, of_test)))


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
        """(V, 2, 3), crop -> view: those of the bank, then the evaluation's warps, then mirror images of test views."""
        return self.layout.views

    @property
    def flipped(self) -> NDArray[np.bool_]:
        """(V,): the views that are mirrored."""
        return self.layout.flipped

    @property
    def bank(self) -> int:
        """B: training images have views 0..B-1, test images view 0 and views B..V-1."""
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
        file = chunk_file(self.path, name, number)
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


def chunk_file(path: Path, name: str, number: int) -> Path:
    """Of one chunk of an array, as zarr calls it."""
    return path / name / "c" / f"{number}/0/0/0"


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
