"""The training-free head: what the frozen features say before any self-training.

The paper's aggregator (eq. 2) has weights, but ZeroShot has nothing to train them with; this head takes uniform mixing
weights and a linear bottleneck fitted without labels: per-channel z-scores, then a joint PCA.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords, sampling
from uld.models.base import Inputs, Maps, Model

Centre = Literal["dataset", "image"]


@dataclass(frozen=True, config=CLOSED)
class ProjectionParams:
    """Training-free descriptors: which features they are made of, and how."""

    layers: tuple[tuple[int, int], ...]  # (block, resnet); all timesteps of the store are taken
    dims: Annotated[int, Field(ge=1)]  # D, descriptor length
    grid: Annotated[int, Field(ge=2)]  # G, cells a side
    centre: Centre  # mean that is taken off each channel: "image" removes what is constant over an image
    whiten: Annotated[float, Field(ge=0, le=1)]  # 0: PCA, 1: every component has the same variance
    images: Annotated[int, Field(ge=1)]  # training images to fit on, at most
    points: Annotated[int, Field(ge=1)]  # random positions an image


@dataclass(frozen=True, config=CLOSED)
class FrozenParams(ProjectionParams):
    """A start that is not trained."""

    model: Literal["frozen"]
    reads: str  # what it reads: features/<line of `stores`>


class Frozen(Model):
    """Linear descriptors of unit length from feature maps of several layers and timesteps."""

    channels = 0

    def __init__(self, names: list[str], channels: list[int], dims: int, grid: int, centre: Centre) -> None:
        super().__init__()
        self.names, self.sizes, self.grid, self.centre, self.dims = names, channels, grid, centre, dims
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("projection", torch.zeros(dims, sum(channels)))
        self.register_buffer("offset", torch.zeros(dims))
        self.mean: Tensor
        self.projection: Tensor
        self.offset: Tensor

    @classmethod
    def of(cls, about: dict[str, Any]) -> "Frozen":
        """The model with the arguments that `about` gave."""
        return cls(**about)

    def about(self) -> dict[str, Any]:
        """The arguments of the constructor, as a JSON tree."""
        keys = ("names", "grid", "centre", "dims")
        return {key: getattr(self, key) for key in keys} | {"channels": self.sizes}

    def maps_read(self) -> list[str]:
        """Names of the feature maps that the model reads."""
        return self.names

    def forward(self, inputs: Inputs) -> Maps:
        """Descriptors alone."""
        return Maps(self.describe(inputs))

    def describe(self, inputs: Inputs) -> Tensor:
        """{name: (B, C, h, w)} -> (B, D, G, G) of unit length.

        Projected and summed at native resolution and then upsampled: all are linear, so the order does not change the
        result and the large concatenated map never exists.
        """
        assert isinstance(inputs, dict)
        native: dict[int, Tensor] = {}  # by the side of the map
        parts = zip(self.names, self.projection.split(self.sizes, 1), self.mean.split(self.sizes), strict=True)
        for name, weight, mean in parts:
            value = centred(inputs[name].to(self.projection.device), mean, self.centre)
            low = torch.einsum("dc,bchw->bdhw", weight, value)
            side = low.shape[-1]
            native[side] = native[side] + low if side in native else low
        total = self.offset[:, None, None] + sum(sampling.resized(low, self.grid) for low in native.values())
        return F.normalize(total, dim=1)


def centred(value: Tensor, mean: Tensor, how: str) -> Tensor:
    """(B, C, h, w) less the data set's channel means (C,), or less each image's own."""
    return value - (mean[:, None, None] if how == "dataset" else value.mean((2, 3), keepdim=True))


def fit(
    params: ProjectionParams,
    read: Callable[[NDArray[np.int64]], dict[str, Tensor]],
    inside: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
    rows: NDArray[np.int64],
    rng: np.random.Generator,
) -> Frozen:
    """Fit z-scores and PCA on random positions in the ROI of training images.

    Args:
        read: rows (B,) -> {name: (B, C, h, w)}. inside: rows -> (B, G, G), cells that may be drawn.
        rows: (n,) training images.

    Raises:
        ULDError: a layer is not in the store, or there are fewer channels or points than `dims`.
    """
    from sklearn.decomposition import PCA  # a second, and all that load a model would wait for it

    samples: list[Tensor] = []
    names: list[str] = []
    channels: list[int] = []
    for row in rows:
        features = read(np.array([row]))
        names = names or _choose(list(features), params.layers)
        mask = inside(np.array([row])).reshape(-1)
        chosen = rng.choice(np.flatnonzero(mask) if mask.any() else len(mask), size=params.points)
        xy = coords.cells(params.grid)[chosen] + rng.uniform(-0.5, 0.5, (params.points, 2))
        parts = [_at(features[name], xy, params.grid, params.centre) for name in names]
        channels = [part.shape[1] for part in parts]
        samples.append(torch.cat(parts, 1).cpu())
    table = torch.cat(samples)
    if params.dims > min(table.shape):
        raise ULDError(f"starts: dims {params.dims} exceeds the {table.shape[1]} channels or {len(table)} points read.")
    mean, std = table.mean(0), table.std(0).clamp_min(1e-6)
    # every layer weighs the same however many channels it has
    scale = std * torch.tensor(np.repeat(np.sqrt(channels), channels), dtype=std.dtype)
    pca = PCA(params.dims, random_state=0).fit(((table - mean) / scale).numpy())
    gain = np.maximum(pca.explained_variance_, 1e-12) ** (-params.whiten / 2)
    model = Frozen(names, channels, params.dims, params.grid, params.centre)
    model.projection.copy_(torch.from_numpy(pca.components_ * gain[:, None]) / scale)
    if params.centre == "image":  # positions are drawn in the ROI, so their mean is not the image's
        model.offset.copy_(-model.projection @ mean)
    else:
        model.mean.copy_(mean)
    return model.eval()


def _choose(names: list[str], layers: tuple[tuple[int, int], ...]) -> list[str]:
    chosen = [n for n in names if any(n.startswith(f"l{i}{j}_t") for i, j in layers)]
    if len({n.split("_")[0] for n in chosen}) != len(set(layers)):
        raise ULDError(
            f"starts: layers {list(layers)} are not all in the feature store ({', '.join(names)}): see readout.layers."
        )
    return chosen


def _at(value: Tensor, xy: NDArray[np.float64], grid: int, centre: str) -> Tensor:
    """(1, C, h, w) at points (P, 2) in cells of a G x G grid -> (P, C)."""
    value = centred(value, value.new_zeros(value.shape[1]), centre)
    local = coords.apply(coords.resize(grid, value.shape[-1]), xy[None])
    return sampling.sample(value, torch.from_numpy(local).to(value.device))[0]
