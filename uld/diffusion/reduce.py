"""Optional reduction of what is stored: per (layer, timestep) z-scores and PCA, fitted on a sample.

Legitimate before any head whose first operation on a layer is a 1x1 convolution, as the aggregator's bottleneck is: a
fixed linear projection only confines it to a subspace, and commutes with bilinear upsampling.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from uld.artifacts.files import atomic
from uld.artifacts.sums import may_read
from uld.base.errors import ArtifactError
from uld.base.params import CLOSED
from uld.diffusion.store import Features

FILE = "reduction.safetensors"


@dataclass(frozen=True, config=CLOSED)
class ReduceParams:
    """Keep `dims` principal components of each layer and timestep, fitted on `images` training images."""

    dims: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]


class Reduction(nn.Module):
    """{name: (B, C, h, w)} -> {name: (B, d, h, w)} with d = min(dims, C)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors  # "<name>.weight" (d, C), "<name>.bias" (d,)

    def forward(self, features: Features) -> Features:
        """Project every map."""
        return {name: self._project(name, value) for name, value in features.items()}

    def _project(self, name: str, value: Tensor) -> Tensor:
        weight, bias = (self.tensors[f"{name}.{part}"].to(value.device) for part in ("weight", "bias"))
        return torch.einsum("dc,bchw->bdhw", weight, value) + bias[:, None, None]

    def save(self, folder: Path) -> None:
        """Write `reduction.safetensors` into `folder`."""
        with atomic(folder / FILE) as part:
            save_file({name: value.contiguous() for name, value in self.tensors.items()}, part)


def load(folder: Path) -> Reduction | None:
    """The reduction kept in `folder`, or None if features are stored as they are.

    Raises:
        ArtifactError: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Reduction(load_file(path))
    except PermissionError as error:
        raise may_read(path) from error
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}): run `dvc repro` for it.") from error


def fit(sample: Iterable[Features], params: ReduceParams) -> Reduction:
    """Fit on feature maps {name: (n, C, h, w)} of a sample of images, batch by batch; every position counts once.

    Only the moments are kept, so memory does not grow with the sample.
    """
    moments: dict[str, _Moments] = {}
    for features in sample:
        for name, value in features.items():
            moments.setdefault(name, _Moments(value.shape[1])).add(value)
    tensors = {}
    for name, one in moments.items():
        if one.count < params.dims:
            raise ArtifactError(f"reduce.dims {params.dims} exceeds the {one.count} positions sampled of {name}.")
        weight = one.components(min(params.dims, len(one.total)))
        tensors[f"{name}.weight"] = weight.float()
        tensors[f"{name}.bias"] = (-weight @ one.total / one.count).float()
    return Reduction(tensors)


class _Moments:
    """Sums over positions of channels (C,) and of their products (C, C), in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.product = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        table = value.detach().cpu().double().permute(0, 2, 3, 1).flatten(0, 2)
        self.count += len(table)
        self.total += table.sum(0)
        self.product += table.T @ table

    def components(self, dims: int) -> Tensor:
        """(d, C): principal axes of the z-scored channels, largest first, to be applied to centred channels."""
        mean = self.total / self.count
        covariance = self.product / self.count - mean[:, None] * mean
        std = covariance.diagonal().clamp_min(0).sqrt().clamp_min(1e-6)
        axes = torch.linalg.eigh(covariance / std[:, None] / std).eigenvectors.flip(1)[:, :dims].T
        sign = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # else free
        return axes * sign / std
