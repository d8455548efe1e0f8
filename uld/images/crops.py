"""The store of all crops, `artifacts/roi/crops.zarr`, as it is read; `uld.images.cut` writes it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from uld.artifacts.files import require
from uld.base.errors import ArtifactError
from uld.geometry.coords import Affine
from uld.images import Pixels


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
            ArtifactError: missing or incomplete.
        """
        group = zarr.open_group(require(path / "zarr.json", "roi").parent, mode="r")
        if "sha256" not in group.attrs or "affine" not in group:
            raise ArtifactError(f"{path} is incomplete: delete it and run `dvc repro roi`.")
        self._images, self._inside = _stored(group, "images"), _stored(group, "inside")
        self._sha256 = str(group.attrs["sha256"])
        self.affine: Affine = _stored(group, "affine")[:]
        self.size = int(self._images.shape[1])

    def __len__(self) -> int:
        """N."""
        return int(self._images.shape[0])

    def images(self, rows: NDArray[np.integer] | slice) -> Pixels:
        """Crops (B, S, S, 3) uint8 RGB of `rows`, in any order."""
        return np.asarray(self._images.oindex[rows])

    def inside(self, rows: NDArray[np.integer] | slice) -> NDArray[np.bool_]:
        """(B, S, S): False where the crop leaves the photograph."""
        return np.asarray(self._inside.oindex[rows])

    def fingerprint(self) -> str:
        """sha256 of the crops' pixels, masks and affines."""
        return self._sha256


def as_images(pixels: Pixels, device: torch.device) -> torch.Tensor:
    """Crops (B, S, S, 3) uint8 as networks take them: (B, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
