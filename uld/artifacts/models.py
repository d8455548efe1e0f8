"""A model in a folder: artifacts/rounds/<start or round>/, and the same inside a detector bundle."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save

from uld import models
from uld.artifacts.files import checksum, contents, damaged, read_json
from uld.base.errors import ParamsError
from uld.base.params import CLOSED, build
from uld.base.writing import write
from uld.models.base import Model

ABOUT, WEIGHTS = "model.json", "model.safetensors"
MADE_BY = "bootstrap train"  # the stages whose folders hold a model


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


@dataclass(frozen=True, config=CLOSED)
class _About:
    """model.json: what is in `Origin`, and

    model: name in `MODELS`; args: of its constructor; weights: CRC-32C of the other file.
    """

    model: str
    args: dict[str, Any]
    weights: str
    reads: str
    made_of: str
    views: dict[str, Any] | None
    steps: Annotated[int, Field(ge=0)]


def save_model(model: Model, folder: Path, origin: Origin) -> None:
    """Write model.json and model.safetensors."""
    weights = save({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    about = _About(models.name_of(model), model.about(), checksum(weights), **asdict(origin))
    write(folder / WEIGHTS, weights)
    write(folder / ABOUT, (json.dumps(asdict(about), indent=1, sort_keys=True) + "\n").encode())


def read_origin(folder: Path) -> Origin:
    """Where the model of a folder comes from.

    Raises:
        ArtifactError: there is none.
    """
    about = _about(folder)
    return Origin(about.reads, about.made_of, about.views, about.steps)


def load_model(folder: Path) -> Model:
    """The model of a folder, on the CPU and in evaluation mode.

    Raises:
        ArtifactError: there is none, or its weights are not those that were saved.
        ParamsError: this version has no such model.
    """
    about, path = _about(folder), folder / WEIGHTS
    weights = contents(path, MADE_BY)
    if checksum(weights) != about.weights:
        raise damaged(path, MADE_BY, "its checksum is another one")
    kind = models.kind(about.model)
    try:
        model = kind.of(about.args)
        model.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError, TypeError, KeyError, ValueError) as error:
        raise damaged(folder / ABOUT, MADE_BY, f"it describes another model than {WEIGHTS} holds: {error}") from error
    return model.eval()


def _about(folder: Path) -> _About:
    path = folder / ABOUT
    tree = read_json(path, MADE_BY)
    try:
        return build(_About, tree, "model", str(path))
    except ParamsError as error:
        raise damaged(path, MADE_BY, error) from error
