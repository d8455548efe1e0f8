"""Fill a feature store: every crop, every view of the bank, its own pass through the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from uld import coords, ranks, runtime
from uld.crops import Crops
from uld.features import reduce, store
from uld.features.extractor import Extractor
from uld.features.reduce import ReduceParams, Reduction
from uld.features.store import LATENT, Features
from uld.params import CLOSED


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
    scratch = runtime.scratch(f"features-{path.stem}", **spec)
    views = np.stack([coords.view(crops.size, v.mirror, v.rotate, v.scale) for v in network.views])
    if runtime.process():
        ranks.wait()  # the first process fits it and keeps it for all
    reducer = _reducer(scratch, extractor, crops, boxes, reduction, seed)
    if not runtime.process():
        ranks.wait()

    def kept(rows: NDArray[np.int64], affine: coords.Affine) -> Features:
        latent = extractor.encode(_images(extractor, crops, rows, affine))
        if network.keep == "latents":
            return {LATENT: latent}
        features = extractor.features(latent)
        return features if reducer is None else reducer(features)

    def compute(first: int, end: int) -> Iterator[tuple[int, int, Features]]:
        for v, affine in enumerate(views):
            passes = runtime.in_batches(lambda a, b: kept(np.arange(first + a, first + b), affine), end - first)  # noqa: B023 - used up before the next view
            yield from ((offset, v, features) for offset, features in passes)

    example = kept(np.arange(1), views[0])
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


def as_images(pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1]."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255


def _images(extractor: Extractor, crops: Crops, rows: NDArray[np.int64], affine: coords.Affine) -> torch.Tensor:
    # neighbouring rows are read as one slice: fancy indexing is slow on a sharded array
    pixels = crops.images(slice(int(rows[0]), int(rows[-1]) + 1))
    return coords.warp(as_images(pixels, extractor.backbone.alphas.device), affine)


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
    rows = np.sort(runtime.rng(seed, "reduce").choice(rows, min(params.images, len(rows)), replace=False))
    device = extractor.backbone.alphas.device
    reducer = reduce.fit((extractor(as_images(crops.images(rows[[i]]), device)) for i in range(len(rows))), params)
    reducer.save(scratch)
    return reducer
