"""A feature store of made-up values: eleven rows in two views, in shards of three rows."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uld.base.scratch import scratch_folder
from uld.diffusion import store
from uld.diffusion.store import Features
from uld.geometry import coords

SHAPES = {"l00_t5": (3, 4, 4), "l10_t5": (2, 8, 8)}
ROWS, VIEWS = 11, 2
SHARD_ROWS = 3  # so 4 shards, the last one not full
SHARD_BYTES = SHARD_ROWS * 2 * VIEWS * sum(int(np.prod(shape)) for shape in SHAPES.values())


def value(name: str, rows: np.ndarray, view: int) -> torch.Tensor:
    """(B, C, h, w): different for every array, row, view and place."""
    base = np.random.default_rng(len(name) + SHAPES[name][0]).standard_normal(SHAPES[name])
    return torch.from_numpy(base + rows[:, None, None, None] * 1.25 - 3 * view).float()


def compute(first: int, end: int) -> Iterator[tuple[int, Features]]:
    """In batches of 3 items, as a backbone would: the second one ends in the middle of a row."""
    items = np.arange(first * VIEWS, end * VIEWS)
    for start in range(0, len(items), 3):
        row, view = np.divmod(items[start : start + 3], VIEWS)
        of = list(zip(row[:, None], view, strict=True))
        yield start, {name: torch.cat([value(name, *one) for one in of]) for name in SHAPES}


def build(folder: Path, fill: Any = compute, rows: int = ROWS) -> Path:
    path = folder / "features" / "trained.zarr"
    views = np.stack([coords.view(8), coords.view(8, mirror=True)])
    spec = {"rows": rows, "seed": 3, "bank": [[False, 0, 1], [True, 0, 1]]}
    scratch = scratch_folder(f"test-{folder.name}", **spec)
    store.build(path, scratch, spec, views, np.array([False, True]), fill, SHAPES)
    return path


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


class Counting:
    """`compute` that notes the shards asked for and does something at one of them."""

    def __init__(self, at: int | None = None, act: Any = None) -> None:
        self.first: list[int] = []
        self._at, self._act = at, act

    def __call__(self, first: int, end: int) -> Iterator[tuple[int, Features]]:
        self.first.append(first)
        for number, part in enumerate(compute(first, end)):
            if first == self._at and number == 1:
                self._act()
            yield part


def fail(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act
