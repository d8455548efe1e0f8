"""Fill a feature store: each item, a crop in one view, has a pass through the network of its own.

Training images are seen in the views of the bank, test images as they are and under the evaluation's warps; where it is
asked for, test images in a mirror too.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.base import random, ranks, runtime
from uld.base.params import CLOSED
from uld.base.scratch import scratch_folder
from uld.diffusion import building, reduce, store
from uld.diffusion.extractor import Extractor
from uld.diffusion.reduce import ReduceParams, Reduction
from uld.diffusion.store import LATENT, Features, Layout
from uld.geometry import coords, sampling
from uld.geometry.coords import Affine
from uld.images.crops import Crops, as_images


@dataclass(frozen=True, config=CLOSED)
class ViewParams:
    """One view of the bank: the crop mirrored, then rotated (degrees), then scaled, about its centre."""

    mirror: bool
    rotate: float
    scale: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=CLOSED)
class StoreParams:
    """One feature store: the backbone's weights or the same network with random ones, and the views to run."""

    trained: bool
    # features: feature maps; latents: what the UNet denoises, from which the maps are computed whenever they are read
    keep: Literal["features", "latents"]
    views: Annotated[tuple[ViewParams, ...], Field(min_length=1)]
    mirrored: bool  # whether test images are there in a mirror too, for methods that average over both


def fill(
    path: Path,
    extractor: Extractor,
    crops: Crops,
    boxes: pd.DataFrame,
    params: StoreParams,
    reduction: ReduceParams | None,
    seed: int,
    warps: Affine,
    folder: Path,
) -> None:
    """Extract and store the features of all crops; resumes an interrupted run of the same settings.

    Args:
        warps: (E, 2, 3) crop -> view, in which test images are stored beside the untouched view.
        folder: of the extractor's backbone, which is copied into the store.

    Raises:
        runtime.Interrupted: asked to stop; finished shards are kept.
        ArtifactError: non-finite values.
    """
    if runtime.compiles():
        extractor.compile_blocks()
    layout = arrange(params, warps, boxes["split"].to_numpy() == "train", crops.size)
    spec = specification(extractor, crops, params, reduction, seed, layout)
    scratch = scratch_folder(f"features-{path.stem}", **spec)
    if runtime.process():
        ranks.wait()  # the first process fits it and keeps it for all
    reducer = _reducer(scratch, extractor, crops, boxes, reduction, seed)
    if not runtime.process():
        ranks.wait()

    def kept(a: int, b: int) -> Features:
        """Of the items a..b-1 of the layout."""
        rows, views = layout.items[a:b].T
        images = as_images(pixels(a, b), extractor.backbone.alphas.device)
        latent = extractor.encode(warped(images, rows - rows[0], views, layout.views))
        if params.keep == "latents":
            return {LATENT: latent}
        return extractor.features(latent, keep=reducer)

    def compute(first: int, end: int) -> Iterator[Features]:
        parts = runtime.in_batches(lambda a, b: kept(first + a, first + b), end - first)
        return (features for _, features in parts)

    with ThreadPoolExecutor(1, "reader") as reader:
        pixels = _Pixels(crops, layout.items[:, 0], reader)
        _, example = next(runtime.in_batches(kept, 1))
        shapes = {name: (int(v.shape[1]), int(v.shape[2]), int(v.shape[3])) for name, v in example.items()}
        building.build(path, scratch, spec, layout, folder, compute, shapes)


def arrange(params: StoreParams, warps: Affine, train: NDArray[np.bool_], size: int) -> Layout:
    """The items of a store: training images in the bank's views, test images untouched and warped.

    Args:
        warps: (E, 2, 3). train: (N,), False for test images. size: of the crops.
    """
    bank = np.stack([coords.view(size, v.mirror, v.rotate, v.scale) for v in params.views])
    mirrors = coords.mirrored(np.concatenate([bank[:1], warps]), size) if params.mirrored else None
    return store.lay_out(bank, np.array([v.mirror for v in params.views]), warps, train, mirrors)


def specification(
    extractor: Extractor,
    crops: Crops,
    params: StoreParams,
    reduction: ReduceParams | None,
    seed: int,
    layout: Layout,
) -> dict[str, Any]:
    """Everything that defines the stored values, as a JSON tree."""
    readout = extractor.params
    return {
        "backbone": extractor.backbone.fingerprint,
        "crops": crops.fingerprint(),
        "rows": len(crops),
        "items": layout.fingerprint,
        "layers": [list(layer) for layer in readout.layers],
        "timesteps": list(readout.timesteps),
        "policy": readout.policy,
        "inversion_steps": readout.inversion_steps,
        "dtype": readout.dtype,
        "image_size": extractor.backbone.image_size,
        "seed": seed,
        "bank": [[v.mirror, v.rotate, v.scale] for v in params.views],
        "warps": layout.views[layout.bank :].tolist(),
        "reduce": None if reduction is None else [reduction.dims, reduction.images],
        "keep": params.keep,
    }


def warped(images: torch.Tensor, index: NDArray[np.int64], views: NDArray[np.int64], affines: Affine) -> torch.Tensor:
    """Items (B, 3, S, S): image `index[n]` in view `views[n]`, all items of a view warped at once.

    Args:
        images: (R, 3, S, S). index, views: (B,). affines: (V, 2, 3), crop -> view.
    """
    out = images.new_empty((len(index), *images.shape[1:]))
    for view in np.unique(views):
        at = np.flatnonzero(views == view)
        out[at] = sampling.warp(images[index[at]], affines[view])
    return out


class _Pixels:
    """Crops (R, S, S, 3) of the rows of items; those of the next batch are read while this one is computed."""

    def __init__(self, crops: Crops, rows: NDArray[np.int64], reader: ThreadPoolExecutor) -> None:
        """Nothing is read yet.

        Args:
            rows: (I,) of each item, ascending, none left out.
        """
        self._crops, self._of, self._reader = crops, rows, reader
        self._coming: tuple[slice, Future[NDArray[np.uint8]]] | None = None

    def __call__(self, a: int, b: int) -> NDArray[np.uint8]:
        """Of the items a..b-1."""
        rows = self._rows(a, b)
        if self._coming is not None and self._coming[0].start == rows.start and rows.stop <= self._coming[0].stop:
            found = self._coming[1].result()[: rows.stop - rows.start]
        else:
            found = self._crops.images(rows)
        self._coming = None
        if b < len(self._of):
            following = self._rows(b, min(b + runtime.batch_size(), len(self._of)))
            self._coming = following, self._reader.submit(self._crops.images, following)
        return found

    def _rows(self, a: int, b: int) -> slice:
        # neighbouring rows are read as one slice: fancy indexing is slow on a sharded array
        return slice(int(self._of[a]), int(self._of[b - 1]) + 1)


def _reducer(
    scratch: Path, extractor: Extractor, crops: Crops, boxes: pd.DataFrame, params: ReduceParams | None, seed: int
) -> Reduction | None:
    """Fitted on the untouched view of training images; kept in `scratch`, so that a resumed run has it."""
    if params is None:
        return None
    kept = reduce.load(scratch)
    if kept is not None:
        return kept
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    rows = np.sort(random.rng(seed, "reduce").choice(rows, min(params.images, len(rows)), replace=False))
    device = extractor.backbone.alphas.device

    def one(row: NDArray[np.int64]) -> Features:
        _, features = next(runtime.in_batches(lambda a, b: extractor(as_images(crops.images(row), device)), 1))
        return features

    reducer = reduce.fit(map(one, rows[:, None]), params)
    reducer.save(scratch)
    return reducer
