"""SuperPoint (DeTone, Malisiewicz, Rabinovich, CVPRW 2018), with weights of a local file.

No weights come with the project: two of the three formats hold Magic Leap's, which are not free. The network is a VGG
encoder of stride 8 with two heads. The detector's has 65 channels a cell, one for each of its 8 x 8 pixels and one for
"no point"; the other describes the cells.
"""

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic.dataclasses
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords, sampling
from uld.geometry.peaks import peaks
from uld.keypoints import weights
from uld.keypoints.base import Keypoints, grey

log = logging.getLogger(__name__)

CELL = 8  # pixels a side of the cell that one position of the last map stands for
ENCODER = (1, 64, 64, 64, 64, 128, 128, 128, 128)
HEADS = ((128, 256, CELL * CELL + 1), (128, 256, 256))  # of the detector and of the descriptors
POOLED = (2, 4, 6)  # layers whose input is halved


@pydantic.dataclasses.dataclass(frozen=True, config=CLOSED)
class SuperPointParams:
    """Params of SuperPoint.

    weights: a .pth or .safetensors file, or a transformers folder. threshold: lowest probability of a point.
    radius, border: of suppression (square window) and of the margin left out, in pixels of the enlarged crop.
    cap: most points an image. scale: enlargement of the crop before the network.
    """

    weights: str
    threshold: Annotated[float, Field(ge=0, le=1)]
    radius: Annotated[int, Field(ge=0)]
    border: Annotated[int, Field(ge=0)]
    cap: Annotated[int, Field(ge=1)]
    scale: Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Format:
    """How a file names the tensors. layers: prefixes of the encoder's eight and of two of each head."""

    name: str
    licence: str
    layers: tuple[str, ...]
    normed: bool  # whether batch normalisation follows each layer


FORMATS = (
    Format(
        "Magic Leap",
        "non-commercial research only",
        (*(f"conv{i}{j}." for i in (1, 2, 3, 4, "P", "D") for j in "ab"),),
        normed=False,
    ),
    Format(
        "transformers, Magic Leap's weights",
        "non-commercial research only",
        (
            *(f"encoder.conv_blocks.{i}.conv_{j}." for i in range(4) for j in "ab"),
            *(f"keypoint_decoder.conv_score_{j}." for j in "ab"),
            *(f"descriptor_decoder.conv_descriptor_{j}." for j in "ab"),
        ),
        normed=False,
    ),
    Format(
        "open re-implementation",
        "MIT",
        (
            *(f"backbone.{i}.{j}." for i in range(4) for j in range(2)),
            *(f"{head}.{j}." for head in ("detector", "descriptor") for j in range(2)),
        ),
        normed=True,
    ),
)


class Network(nn.Module):
    """Twelve convolutions, each but the last of a head with ReLU.

    With `normed`, batch normalisation comes after each, behind the ReLU.
    """

    def __init__(self, normed: bool) -> None:
        super().__init__()
        sizes = [(*pair, 3) for pair in itertools.pairwise(ENCODER)]
        sizes += [one for a, b, c in HEADS for one in ((a, b, 3), (b, c, 1))]
        self.convs = nn.ModuleList(nn.Conv2d(old, new, k, padding=k // 2) for old, new, k in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(new, eps=1e-3) if normed else nn.Identity() for _, new, _ in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1], H and W multiples of 8 -> logits (B, 65, H / 8, W / 8)."""
        return self._head(self._encoded(x), -4)

    def describe(self, x: Tensor) -> Tensor:
        """The same images -> descriptors of their cells (B, 256, H / 8, W / 8), of unit length."""
        return F.normalize(self._head(self._encoded(x), -2), dim=1)

    def _encoded(self, x: Tensor) -> Tensor:
        for i in range(len(ENCODER) - 1):
            if i in POOLED:
                x = F.max_pool2d(x, 2)
            x = self.norms[i](self.convs[i](x).relu())
        return x

    def _head(self, x: Tensor, first: int) -> Tensor:
        x = self.norms[first](self.convs[first](x).relu())
        out: Tensor = self.norms[first + 1](self.convs[first + 1](x))
        return out


class SuperPoint(Keypoints):
    """Local maxima of the probability that a pixel is a point."""

    Params = SuperPointParams

    def __init__(self, params: SuperPointParams) -> None:
        """Load the weights and tell their licence.

        Raises:
            ULDError: no such file, no state dict in it, or one of another network.
        """
        self.params = params
        self._device = runtime.device()
        self._network = load(Path(params.weights)).to(self._device)

    def __call__(self, images: Tensor) -> list[NDArray[np.float32]]:
        """See `Keypoints`; the score is the probability."""
        p = self.params
        heat = self.heat(images)
        size = heat.shape[-1]
        found = peaks(heat, torch.ones_like(heat, dtype=torch.bool), p.radius, p.threshold, size * size)
        # only now, or the slope of a peak within the border would count as a peak
        inside = ((found.xy >= p.border) & (found.xy < size - p.border)).all(axis=1)
        xy = coords.apply(coords.resize(size, images.shape[-1]), found.xy)
        table = np.column_stack([xy, found.score])
        return [table[inside & (found.image == i)][: p.cap] for i in range(len(images))]

    @torch.inference_mode()
    def heat(self, images: Tensor) -> Tensor:
        """Probability of a point: (B, 3, S, S) -> (B, scale S, scale S), float32 on the device computed on."""
        size = images.shape[-1] * self.params.scale
        cells = self._network(self._large(images)).softmax(1)[:, :-1]
        return F.pixel_shuffle(cells, CELL)[:, 0, :size, :size]

    @torch.inference_mode()
    def describe(self, images: Tensor, points: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Keypoints`; D is 256. Between the centres of cells, descriptors are interpolated linearly."""
        cells = self._network.describe(self._large(images))
        size = images.shape[-1]
        to_cells = coords.compose(coords.resize(CELL, 1), coords.resize(size, size * self.params.scale))
        found = []
        for one, at in zip(cells, points, strict=True):
            xy = torch.from_numpy(coords.apply(to_cells, at[:, :2])).to(self._device)
            found.append(F.normalize(sampling.sample(one[None], xy[None])[0], dim=1).cpu().numpy())
        return found

    def _large(self, images: Tensor) -> Tensor:
        """What the network sees: grey, enlarged, and mirrored at the right and lower edge to whole cells."""
        x = grey(images.to(self._device).float(), self.params.scale)
        extra = -x.shape[-1] % CELL
        return F.pad(x, (0, extra, 0, extra), mode="reflect") if extra else x


def load(path: Path) -> Network:
    """The network with the weights of a file, whose format is known by its names of the tensors.

    Args:
        path: a .pth or .safetensors file, or a folder with model.safetensors.

    Raises:
        ULDError: no such file, no state dict in it, or one of another network.
    """
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise ULDError(
            f"superpoint: {path} is missing: put superpoint_v6_from_tf.pth of rpautrat/SuperPoint (MIT) or "
            "superpoint_v1.pth of magicleap/SuperPointPretrainedNetwork (non-commercial) there, or mend `weights`."
        )
    state = weights.state_of(weights.read(path, "superpoint"), path, "superpoint")
    kind = next((kind for kind in FORMATS if any(name.startswith(kind.layers[0]) for name in state)), None)
    if kind is None:
        raise ULDError(
            f"superpoint: {path} holds no weights of SuperPoint: no tensor is named "
            f"{', '.join(kind.layers[0] + '*' for kind in FORMATS)}. Choose another file as `weights`."
        )
    network = Network(kind.normed)
    network.load_state_dict(_renamed(state, network.state_dict(), kind, path))
    log.warning("%s: SuperPoint weights (%s), licence: %s.", path, kind.name, kind.licence)
    return network.eval()


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], kind: Format, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the network's own names; `own` is the network's state dict, for names and shapes."""
    names: dict[str, str] = {}
    for name in own:
        what, layer, part = name.split(".", 2)
        names[name] = kind.layers[int(layer)] + ({"convs": "conv.", "norms": "bn."}[what] if kind.normed else "") + part
    there = set(state)
    wrong = {
        "missing": sorted(set(names.values()) - there),
        "unknown": sorted(there - set(names.values())),
        "of another shape": [
            f"{theirs} {tuple(state[theirs].shape)}, not {tuple(own[ours].shape)}"
            for ours, theirs in names.items()
            if theirs in there and state[theirs].shape != own[ours].shape
        ],
    }
    if any(wrong.values()):
        said = "; ".join(f"{what}: {', '.join(which)}" for what, which in wrong.items() if which)
        raise ULDError(
            f"superpoint: {path} ({kind.name}) does not fit the network: {said}. Choose another file as `weights`."
        )
    return {ours: state[theirs] for ours, theirs in names.items()}
