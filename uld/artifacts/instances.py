"""Objects of images that may show several of a kind, for systems that find more than one (TUSK): flat, with offsets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld.artifacts.files import given, read_arrays, record, write_arrays


@dataclass(frozen=True)
class Instances:
    """M objects in N images; annotations and what is found have the same form.

    offsets (N + 1,) int64: image n has the objects offsets[n] to offsets[n + 1] - 1, and may have none. xy (M, 2)
    float32 image pixels; label (M,) int64 kind; score (M,) float32, higher is surer. mask: (M, H, W) bool, None where
    objects have no outline.
    """

    offsets: NDArray[np.int64]
    xy: NDArray[np.float32]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def image(self) -> NDArray[np.int64]:
        """(M,): which image shows each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def of(self, image: int) -> "Instances":
        """The objects of one image."""
        mine = slice(self.offsets[image], self.offsets[image + 1])
        mask = None if self.mask is None else self.mask[mine]
        offsets = np.array([0, mine.stop - mine.start], dtype=np.int64)
        return Instances(offsets, self.xy[mine], self.label[mine], self.score[mine], mask)


def gathered(parts: list[Instances]) -> Instances:
    """The images of all parts, at least one, in order; a mask only where all have one."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in parts]) for name in ("xy", "label", "score")
    }
    counts = np.concatenate([np.diff(one.offsets) for one in parts])
    masks = [one.mask for one in parts if one.mask is not None]
    mask = np.concatenate(masks) if len(masks) == len(parts) else None
    return Instances(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns, mask=mask)


def write_instances(path: Path, instances: Instances) -> None:
    """Write a file of objects."""
    write_arrays(path, given(instances))


def read_instances(path: Path, made_by: str) -> Instances:
    """Read a file of objects; made_by: the stage that makes it, for messages."""
    return record(Instances, read_arrays(path, made_by), path, made_by)
