"""A model in a folder: artifacts/rounds/<start or round>/, and the same inside a detector bundle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from uld import models
from uld.artifacts.files import atomic
from uld.base.errors import ArtifactError
from uld.models.base import Model

ABOUT, WEIGHTS = "model.json", "model.safetensors"
KEYS = {"model", "args", "reads", "made_of", "views", "steps"}  # of model.json


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    reads: what it reads, below artifacts/ and without its suffix, features/<store> or roi/crops; made_of: fingerprint
    of that; views: how a model that reads images sees them when it is trained, None of one that reads features; steps:
    optimiser steps that it has been trained for, over all rounds.
    """

    reads: str
    made_of: str
    views: dict[str, Any] | None
    steps: int


def save_model(model: Model, folder: Path, origin: Origin) -> None:
    """Write model.json and model.safetensors."""
    about = {"model": models.name_of(model), "args": model.about(), **asdict(origin)}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as part:
        save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, part)
    with atomic(folder / ABOUT) as part:
        part.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def read_origin(folder: Path) -> Origin:
    """Where the model of a folder comes from.

    Raises:
        ArtifactError: there is none.
    """
    about = _about(folder)
    return Origin(about["reads"], about["made_of"], about["views"], about["steps"])


def load_model(folder: Path) -> Model:
    """The model of a folder, on the CPU and in evaluation mode.

    Raises:
        ArtifactError: there is none, or its weights cannot be read.
    """
    about = _about(folder)
    model = models.kind(about["model"]).of(about["args"])
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read ({error}): run `dvc repro` for it.") from error
    return model.eval()


def _about(folder: Path) -> dict[str, Any]:
    if not (folder / ABOUT).is_file():
        raise ArtifactError(f"{folder / ABOUT} is missing: run `dvc repro bootstrap` (or `train`).")
    try:
        about = json.loads((folder / ABOUT).read_text())
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict) or not about.keys() >= KEYS:
        raise ArtifactError(f"{folder / ABOUT} describes no model: run `dvc repro` for it.")
    return about
