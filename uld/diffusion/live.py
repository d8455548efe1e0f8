"""Features of photographs, computed on the spot as a store would hold them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from uld.artifacts.files import read_json, write_json
from uld.base import runtime
from uld.base.errors import ArtifactError
from uld.base.params import CLOSED, build
from uld.diffusion import backbone, pinned, reduce
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.store import BACKBONE, Features, FeatureStore
from uld.models.base import Model

READOUT = "readout.json"
KEYS = ("layers", "timesteps", "policy", "inversion_steps", "dtype")


@dataclass(frozen=True, config=CLOSED)
class Readout:
    """What readout.json holds: what is read out of the network, the seed of the noise, and the network's hash."""

    readout: ReadoutParams
    seed: Annotated[int, Field(ge=0)]
    backbone: str


def pack(store: FeatureStore, folder: Path) -> None:
    """Put what computes a store's features into a bundle: a small network itself, a pinned one by path and hash."""
    shutil.copytree(store.path / BACKBONE, folder / BACKBONE, dirs_exist_ok=True)
    if (store.path / reduce.FILE).is_file():
        shutil.copy(store.path / reduce.FILE, folder / reduce.FILE)
    about = {"readout": {key: store.spec[key] for key in KEYS}, "seed": store.spec["seed"]}
    write_json(folder / READOUT, about | {"backbone": store.spec["backbone"]})


def outside(folder: Path) -> list[str]:
    """The folder or hub id of a pinned network, which lies outside of a bundle.

    Raises:
        ArtifactError: the file that names it is damaged.
    """
    network, reference = pinned.resolve(folder / BACKBONE)
    return [network] if reference.get("path") else []


def features_of(model: Model, folder: Path) -> Callable[[Tensor], Features]:
    """Images (B, 3, S, S) -> the feature maps that a model reads, rounded as a store rounds them.

    Raises:
        ArtifactError: the network has changed. BackboneError: a pinned one is gone. ParamsError: a key of the file that
            says what is read out is wrong.
    """
    about = build(Readout, read_json(folder / READOUT, "predict"), "readout", str(folder / READOUT))
    network = backbone.load(folder / BACKBONE, about.readout.dtype, not about.backbone.startswith("untrained-"))
    if network.fingerprint != about.backbone:
        raise ArtifactError(f"{folder}: its backbone is not the one it was made with: run `dvc repro predict`.")
    extractor, reduction = Extractor(network, about.readout, about.seed), reduce.load(folder)
    if runtime.compiles():
        extractor.compile_blocks()

    def read(images: Tensor) -> Features:
        found = extractor(images)
        kept = _as_stored(found if reduction is None else reduction(found))
        return _as_stored(model.prepared(kept))

    return read


def _as_stored(features: Features) -> Features:
    """Through float16, as a store keeps them: a photograph gets the coordinates that the pipeline gave it."""
    return {name: value.half().float() for name, value in features.items()}
