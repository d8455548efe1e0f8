"""SuperPoint (DeTone, Malisiewicz, Rabinovich, CVPRW 2018): the detector alone, with weights of a local file.

No weights come with the project: two of the three formats hold Magic Leap's, which are not free. The network is a VGG
encoder of stride 8 and a head with 65 channels a cell, one for each of its 8 x 8 pixels and one for "no point".
"""

import itertools
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Annotated, Any

import numpy as np
import pydantic.dataclasses
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords
from uld.geometry.peaks import peaks
from uld.keypoints.base import Keypoints, grey

log = logging.getLogger(__name__)

CELL = 8  # pixels a side of the cell that one position of the last map stands for
WIDTHS = (1, 64, 64, 64, 64, 128, 128, 128, 128, 256, CELL * CELL + 1)
POOLED = (2, 4, 6)  # layers whose input is halved

# what torch.load raises on a file that is none of its own
UNREADABLE = (
    UnpicklingError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip


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
    """How a file names the tensors. layers: prefixes of the detector's ten; ignored: of the descriptor head's."""

    name: str
    licence: str
    layers: tuple[str, ...]
    ignored: tuple[str, ...]
    normed: bool  # whether batch normalisation follows each layer


FORMATS = (
    Format(
        "Magic Leap",
        "non-commercial research only",
        (*(f"conv{i}{j}." for i in (1, 2, 3, 4) for j in "ab"), "convPa.", "convPb."),
        ("convDa.", "convDb."),
        normed=False,
    ),
    Format(
        "transformers, Magic Leap's weights",
        "non-commercial research only",
        (
            *(f"encoder.conv_blocks.{i}.conv_{j}." for i in range(4) for j in "ab"),
            *(f"keypoint_decoder.conv_score_{j}." for j in "ab"),
        ),
        ("descriptor_decoder.conv_descriptor_a.", "descriptor_decoder.conv_descriptor_b."),
        normed=False,
    ),
    Format(
        "open re-implementation",
        "MIT",
        (*(f"backbone.{i}.{j}." for i in range(4) for j in range(2)), "detector.0.", "detector.1."),
        ("descriptor.0.", "descriptor.1."),
        normed=True,
    ),
)


class Network(nn.Module):
    """Ten convolutions, each but the last with ReLU; with `normed`, batch normalisation comes after the ReLU."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        last = len(WIDTHS) - 2
        self.convs = nn.ModuleList(
            nn.Conv2d(old, new, 1 if i == last else 3, padding=0 if i == last else 1)
            for i, (old, new) in enumerate(itertools.pairwise(WIDTHS))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) if normed else nn.Identity() for n in WIDTHS[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Grey images (B, 1, H, W) in [0, 1], H and W multiples of 8 -> logits (B, 65, H / 8, W / 8)."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if i in POOLED:
                x = F.max_pool2d(x, 2)
            x = conv(x)
            x = norm(x.relu() if i < len(self.convs) - 1 else x)
        return x


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
        x = grey(images.to(self._device).float(), self.params.scale)
        size = x.shape[-1]
        extra = -size % CELL
        if extra:
            x = F.pad(x, (0, extra, 0, extra), mode="reflect")
        cells = self._network(x).softmax(1)[:, :-1]
        return F.pixel_shuffle(cells, CELL)[:, 0, :size, :size]


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
    state = _read(path)
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


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *UNREADABLE) as error:
        # the library's own text proposes to switch the check off
        raise ULDError(
            f"superpoint: {path} cannot be read: it is damaged, or holds pickled objects besides tensors, which could "
            "run code. Get it again, or save its state dict alone in a .safetensors file."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise ULDError(f"superpoint: {path} is no state dict (names and tensors): save that part of it alone.")
    return state


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], kind: Format, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the network's own names; `own` is the network's state dict, for names and shapes."""
    names: dict[str, str] = {}
    for name in own:
        what, layer, part = name.split(".", 2)
        names[name] = kind.layers[int(layer)] + ({"convs": "conv.", "norms": "bn."}[what] if kind.normed else "") + part
    there = {name for name in state if not name.startswith(kind.ignored)}
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
