"""The store of all crops, `artifacts/roi/crops.zarr`, as it is read; `uld.images.cut` writes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from uld.artifacts.files import contents, damaged
from uld.base.errors import ArtifactError
from uld.geometry.coords import Affine
from uld.images import Pixels

HELD = 2**28  # bytes of masks that are kept in memory


def _stored(group: zarr.Group, name: str) -> Any:
    return group[name]


class Crops:
    """Lazy reader of crops.zarr; row n is line n of boxes.csv.

    Attributes:
        affine: (N, 2, 3) float64, image -> crop.
        size: S.
    """

    def __init__(self, path: Path) -> None:
        """Open the store.

        Raises:
            ArtifactError: missing, incomplete or damaged.
        """
        self._path = path
        contents(path / "zarr.json", "roi")
        with self._whole():
            group = zarr.open_group(path, mode="r")
            if "sha256" not in group.attrs or "affine" not in group:
                raise ArtifactError(f"{path} is incomplete: delete it and run `dvc repro roi`.")
            self._images, self._inside, affine = (_stored(group, name) for name in ("images", "inside", "affine"))
            for array in (self._images, self._inside, affine):  # zarr makes zeros of a file that is missing
                if array.nchunks_initialized < array.nchunks:
                    raise ValueError(f"a file of {array.name} is missing")
            self.affine: Affine = affine[:]
            self.size = int(self._images.shape[1])
            self._sha256 = str(group.attrs["sha256"])

    def __len__(self) -> int:
        """N."""
        return int(self._images.shape[0])

    def images(self, rows: NDArray[np.integer] | slice) -> Pixels:
        """Crops (B, S, S, 3) uint8 RGB of `rows`, in any order."""
        with self._whole():
            return np.asarray(self._images.oindex[rows])

    def inside(self, rows: NDArray[np.integer] | slice) -> NDArray[np.bool_]:
        """(B, S, S): False where the crop leaves the photograph."""
        with self._whole():
            return np.asarray(self._masks[rows])

    @cached_property
    def _masks(self) -> Any:
        """The masks of all crops, in memory if they are small: every view of an image asks for its mask again."""
        return self._inside[:] if self._inside.nbytes <= HELD else self._inside.oindex

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What zarr says of a store that was damaged, as an error with the remedy."""
        try:
            yield
        except (ArtifactError, IndexError):
            raise
        except Exception as error:  # of its codecs, each has errors of its own
            raise damaged(self._path, "roi", error) from error

    def fingerprint(self) -> str:
        """sha256 of the crops' pixels, masks and affines."""
        return self._sha256


def as_images(pixels: Pixels, device: torch.device) -> torch.Tensor:
    """Crops (B, S, S, 3) uint8 as networks take them: (B, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
