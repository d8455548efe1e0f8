"""Models on frozen features: what rounds of self-training start from and end in."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from uld.artifacts.files import atomic
from uld.base.errors import ArtifactError, ULDError
from uld.models.aggregator import Aggregator
from uld.models.frozen import FrozenHead
from uld.models.heads import LearnedHead
from uld.models.pose import PoseVAE

Head = FrozenHead | LearnedHead

COLLAPSED = 0.98  # squared length of an image's mean descriptor above which its cells look alike


def save(head: Head, folder: Path, backbone: str) -> None:
    """Write head.json and head.safetensors.

    Args:
        backbone: fingerprint of the network whose features the model reads.
    """
    kind = "learned" if isinstance(head, LearnedHead) else "frozen"
    about = head.about() | {"head": kind, "backbone": backbone}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "head.safetensors") as part:
        save_file({name: value.contiguous().cpu() for name, value in head.state_dict().items()}, part)
    with atomic(folder / "head.json") as part:
        part.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def load(folder: Path, backbone: str) -> Head:
    """The model saved in artifacts/rounds/<start or round>/ or in a detector bundle.

    Raises:
        ArtifactError: there is none, or it was made for the features of another backbone.
    """
    if not (folder / "head.json").is_file():
        raise ArtifactError(f"{folder}/head.json is missing: run `dvc repro bootstrap` (or `train`).")
    about = json.loads((folder / "head.json").read_text())
    if about.pop("backbone") != backbone:
        raise ArtifactError(f"{folder} was made for the features of another backbone: run `dvc repro bootstrap`.")
    head = _build(about.pop("head"), about)
    head.load_state_dict(load_file(folder / "head.safetensors"))
    return head.eval()


def _build(kind: str, about: dict[str, Any]) -> Head:
    if kind == "frozen":
        return FrozenHead(**about)
    base, aggregator = FrozenHead(**about.pop("base")), Aggregator(**about.pop("aggregator"))
    pose = PoseVAE(**about.pop("pose")) if "pose" in about else None
    return LearnedHead(base, aggregator, **about, pose=pose)


def refuse_collapse(descriptors: Tensor, name: str) -> None:
    """Raise if all cells of a view look alike: nothing can be told from such descriptors.

    Args:
        descriptors: (B, D, G, G) of unit length. name: of the run, for the message.
    """
    alike = float(descriptors.detach().mean((2, 3)).square().sum(1).mean())
    if alike > COLLAPSED:
        raise ULDError(f"{name}: all descriptors of an image have become alike ({alike:.3f}): lower the learning rate.")
