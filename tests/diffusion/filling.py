"""A feature store of made-up values: eight images in two views, three test images warped; six items a shard."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uld.base.scratch import scratch_folder
from uld.diffusion import building, store
from uld.diffusion.store import Features
from uld.geometry import coords

SHAPES = {"l00_t5": (3, 4, 4), "l10_t5": (2, 8, 8)}
ROWS, TRAIN, BANK = 11, 8, 2
WARP = coords.view(8, rotate=20)
SHARD = 6  # items, so 4 shards, the last one not full
SHARD_BYTES = SHARD * 2 * sum(int(np.prod(shape)) for shape in SHAPES.values())
PAIRS = [(row, view) for row in range(ROWS) for view in ((0, 1) if row < TRAIN else (0, 2))]  # of each item


def value(name: str, rows: np.ndarray, view: int) -> torch.Tensor:
    """(B, C, h, w): different for every array, row, view and place."""
    base = np.random.default_rng(len(name) + SHAPES[name][0]).standard_normal(SHAPES[name])
    return torch.from_numpy(base + rows[:, None, None, None] * 1.25 - 3 * view).float()


def compute(first: int, end: int) -> Iterator[Features]:
    """In batches of 3 items, as a backbone would: every other one ends amid the views of an image."""
    for start in range(first, end, 3):
        of = PAIRS[start : min(start + 3, end)]
        yield {name: torch.cat([value(name, np.array([row]), view) for row, view in of]) for name in SHAPES}


def build(folder: Path, fill: Any = compute, rows: int = ROWS) -> Path:
    path = folder / "features" / "trained.zarr"
    bank = np.stack([coords.view(8), coords.view(8, mirror=True)])
    layout = store.lay_out(bank, np.array([False, True]), WARP[None], np.arange(rows) < TRAIN)
    network = folder.parent / "network"
    (network / "unet").mkdir(parents=True, exist_ok=True)
    (network / "unet/config.json").write_text('{"made": "up"}')
    spec = {"rows": rows, "seed": 3}
    scratch = scratch_folder(f"test-{folder.name}", **spec)
    building.build(path, scratch, spec, layout, network, fill, SHAPES)
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

    def __call__(self, first: int, end: int) -> Iterator[Features]:
        self.first.append(first)
        for number, part in enumerate(compute(first, end)):
            if first == self._at and number == 1:
                self._act()
            yield part


def fail(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act
