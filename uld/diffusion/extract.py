"""Fill a feature store: every crop, every view of the bank, its own pass through the network."""

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
from uld.diffusion import reduce, store
from uld.diffusion.extractor import Extractor
from uld.diffusion.reduce import ReduceParams, Reduction
from uld.diffusion.store import LATENT, Features
from uld.geometry import coords
from uld.images.crops import Crops, as_images


@dataclass(frozen=True, config=CLOSED)
class ViewParams:
    """One view of the bank: the crop mirrored, then rotated (degrees), then scaled, about its centre."""

    mirror: bool
    rotate: float
    scale: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=CLOSED)
class NetworkParams:
    """One feature store: the backbone's weights or the same network with random ones, and the views to run."""

    trained: bool
    # features: feature maps; latents: what the UNet denoises, from which the maps are computed whenever they are read
    keep: Literal["features", "latents"]
    views: Annotated[tuple[ViewParams, ...], Field(min_length=1)]


def fill(
    path: Path,
    extractor: Extractor,
    crops: Crops,
    boxes: pd.DataFrame,
    network: NetworkParams,
    reduction: ReduceParams | None,
    seed: int,
) -> None:
    """Extract and store the features of all crops; resumes an interrupted run of the same settings.

    Raises:
        runtime.Interrupted: asked to stop; finished shards are kept.
        ArtifactError: non-finite values.
    """
    if runtime.compiles():
        extractor.compile_blocks()
    spec = specification(extractor, crops, network, reduction, seed)
    scratch = scratch_folder(f"features-{path.stem}", **spec)
    views = np.stack([coords.view(crops.size, v.mirror, v.rotate, v.scale) for v in network.views])
    if runtime.process():
        ranks.wait()  # the first process fits it and keeps it for all
    reducer = _reducer(scratch, extractor, crops, boxes, reduction, seed)
    if not runtime.process():
        ranks.wait()

    def kept(a: int, b: int) -> Features:
        """Of the items a..b-1, as `store.build` counts them."""
        images = as_images(pixels(a, b), extractor.backbone.alphas.device)
        turned = torch.stack([coords.warp(images, affine) for affine in views], dim=1).flatten(0, 1)
        skipped = a % len(views)  # of the first row
        latent = extractor.encode(turned[skipped : skipped + b - a])
        if network.keep == "latents":
            return {LATENT: latent}
        return extractor.features(latent, keep=reducer)

    def compute(first: int, end: int) -> Iterator[tuple[int, Features]]:
        start = first * len(views)
        return runtime.in_batches(lambda a, b: kept(start + a, start + b), end * len(views) - start)

    with ThreadPoolExecutor(1, "reader") as reader:
        pixels = _Pixels(crops, len(views), reader)
        _, example = next(runtime.in_batches(kept, 1))
        shapes = {name: (int(v.shape[1]), int(v.shape[2]), int(v.shape[3])) for name, v in example.items()}
        store.build(path, scratch, spec, views, np.array([v.mirror for v in network.views]), compute, shapes)


def specification(
    extractor: Extractor, crops: Crops, network: NetworkParams, reduction: ReduceParams | None, seed: int
) -> dict[str, Any]:
    """Everything that defines the stored values, as a JSON tree."""
    readout = extractor.params
    return {
        "backbone": extractor.backbone.fingerprint,
        "crops": crops.fingerprint(),
        "rows": len(crops),
        "layers": [list(layer) for layer in readout.layers],
        "timesteps": list(readout.timesteps),
        "policy": readout.policy,
        "inversion_steps": readout.inversion_steps,
        "dtype": readout.dtype,
        "image_size": extractor.backbone.image_size,
        "seed": seed,
        "bank": [[v.mirror, v.rotate, v.scale] for v in network.views],
        "reduce": None if reduction is None else [reduction.dims, reduction.images],
        "keep": network.keep,
    }


class _Pixels:
    """Crops (R, S, S, 3) of the rows of items; those of the next batch are read while this one is computed."""

    def __init__(self, crops: Crops, views: int, reader: ThreadPoolExecutor) -> None:
        self._crops, self._views, self._reader = crops, views, reader
        self._coming: tuple[slice, Future[NDArray[np.uint8]]] | None = None

    def __call__(self, a: int, b: int) -> NDArray[np.uint8]:
        """Of the items a..b-1."""
        rows = self._rows(a, b)
        if self._coming is not None and self._coming[0].start == rows.start and rows.stop <= self._coming[0].stop:
            found = self._coming[1].result()[: rows.stop - rows.start]
        else:
            found = self._crops.images(rows)
        following = self._rows(b, b + runtime.batch_size())
        self._coming = None
        if following.start < following.stop:
            self._coming = following, self._reader.submit(self._crops.images, following)
        return found

    def _rows(self, a: int, b: int) -> slice:
        # neighbouring rows are read as one slice: fancy indexing is slow on a sharded array
        return slice(a // self._views, min(-(-b // self._views), len(self._crops)))


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
