"""Square crops around the object boxes: cutting one photograph, or all into `artifacts/roi/crops.zarr`."""

import hashlib
import math
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from zarr.codecs import BloscCodec, Crc32cCodec

from uld.base import runtime
from uld.base.writing import atomic_folder
from uld.geometry import coords
from uld.geometry.coords import Affine
from uld.images import Pixels
from uld.images.decode import ahead, decode

SHARD = 128  # crops a file: at 512 px 100 MB in memory while it is written
SHRINK = 1.25  # from this factor on, plain bilinear sampling would skip pixels


def cut(image: Pixels, affine: Affine, size: int, border: float = 0.0) -> tuple[Pixels, NDArray[np.bool_]]:
    """Resample a photograph into a crop.

    Shrinking averages areas first, so that fine texture does not alias; both steps keep the half-pixel convention.

    Args:
        image: (H, W, 3) uint8.
        affine: (2, 3), image -> crop, as from `coords.crop`.
        size: S, side of the crop.
        border: share of S; pixels that are nearer to an edge of the photograph do not count as inside.

    Returns:
        The crop (S, S, 3), mirrored at the photograph's edges where it leaves it, and `inside` (S, S): whether the
        pixel's centre lies in the photograph.
    """
    height, width = image.shape[:2]
    inside = _inside(affine, size, width, height, border)
    scale = math.sqrt(abs(np.linalg.det(affine[:, :2])))
    if scale < 1 / SHRINK:
        small = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        affine = coords.compose(affine, _stretch(width / small[0], height / small[1]))
    crop = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return crop.astype(np.uint8, copy=False), inside


def _stretch(kx: float, ky: float) -> Affine:
    """Affine (2, 3) of a resize by the factors (kx, ky) in the half-pixel convention."""
    return np.array([[kx, 0, (kx - 1) / 2], [0, ky, (ky - 1) / 2]])


def _inside(affine: Affine, size: int, width: int, height: int, border: float) -> NDArray[np.bool_]:
    """(S, S): whether a crop pixel's centre falls within [-0.5, W - 0.5] x [-0.5, H - 0.5], less the border."""
    back = coords.invert(affine)
    edge = border * size * math.sqrt(abs(np.linalg.det(back[:, :2]))) - 0.5
    y, x = np.mgrid[:size, :size]
    at = np.stack([x, y], axis=-1) @ back[:, :2].T + back[:, 2]
    return np.asarray(((at >= edge) & (at <= np.array([width, height]) - 1 - edge)).all(axis=-1))


def write(path: Path, root: Path, boxes: pd.DataFrame, margin: float, size: int, border: float = 0.0) -> None:
    """Cut all crops into a new store, shard by shard; it gets its name when it is complete.

    Args:
        path: artifacts/roi/crops.zarr.
        root: folder of the images.
        boxes: N lines of boxes.csv.
        margin: see `coords.crop`.
        size: S.
        border: see `cut`.
    """
    affine = coords.crop(boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64), margin, size)
    with atomic_folder(path) as part:
        _fill(zarr.open_group(part, mode="w", zarr_format=3), root, boxes, affine, size, border)


def _fill(group: zarr.Group, root: Path, boxes: pd.DataFrame, affine: Affine, size: int, border: float) -> None:
    crops = _array(group, "images", (len(boxes), size, size, 3), np.uint8)
    inside = _array(group, "inside", (len(boxes), size, size), np.bool_)
    digest = hashlib.sha256(affine.tobytes())
    cuts = ahead(
        lambda job: cut(decode(root / job[0]), job[1], size, border),
        zip(boxes["image"], affine, strict=True),
        runtime.threads(),
    )
    for start in track(range(0, len(boxes), SHARD), "cutting crops", console=Console(stderr=True)):
        batch = list(islice(cuts, SHARD))
        for array, values in zip((crops, inside), map(np.stack, zip(*batch, strict=True)), strict=True):
            array[start : start + len(batch)] = values
            digest.update(values.tobytes())
    _array(group, "affine", affine.shape, affine.dtype)[:] = affine
    group.attrs["sha256"] = digest.hexdigest()


def _array(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """One row a chunk, each with a checksum that zarr verifies, `SHARD` rows a file."""
    rest = shape[1:]
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(1, *rest),
        shards=(SHARD, *rest),
        compressors=[BloscCodec(cname="zstd", clevel=3), Crc32cCodec()],
        config={"write_empty_chunks": True},  # black ones too: what is missing was lost
    )
