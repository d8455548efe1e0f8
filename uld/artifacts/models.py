"""A model in a folder: artifacts/rounds/<start or round>/, and the same inside a detector bundle."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.dataclasses import dataclass as closed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from uld import models
from uld.artifacts.files import atomic
from uld.artifacts.sums import may_read
from uld.base.errors import ArtifactError, ParamsError
from uld.base.params import CLOSED, build
from uld.models.base import Model

T = TypeVar("T")

ABOUT, WEIGHTS = "model.json", "model.safetensors"
LARGEST = 2**14  # no size of a model is beyond it: a network of such a size would take all memory before it is refused


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


@closed(frozen=True, config=CLOSED)
class About:
    """What model.json holds: the name in `MODELS`, the constructor's arguments, and the fields of `Origin`."""

    model: str
    args: dict[str, Any]
    reads: str
    made_of: str
    views: dict[str, Any] | None
    steps: Annotated[int, Field(ge=0)]


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
    return Origin(about.reads, about.made_of, about.views, about.steps)


def load_model(folder: Path) -> Model:
    """The model of a folder, on the CPU and in evaluation mode.

    Raises:
        ArtifactError: there is none, an argument of it is wrong, or its weights cannot be read.
        ParamsError: this version has no model of that name.
    """
    about = _about(folder)
    kind, where = models.kind(about.model), str(folder / ABOUT)
    _told(lambda: build(arguments(kind), about.args, "args", where))
    _refuse_absurd(about.args, f"{where}: args")
    model = _built(kind, about.args, where)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except PermissionError as error:
        raise may_read(folder / WEIGHTS) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} cannot be read ({error}): run `dvc repro` for it.") from error
    return model.eval()


def _built(kind: type[Model], args: dict[str, Any], where: str) -> Model:
    try:
        return kind.of(args)
    except (ParamsError, ArithmeticError, RuntimeError, ValueError) as error:  # sizes that do not fit each other
        raise ArtifactError(f"{where}: args describe no network ({error}): run `dvc repro` for it.") from error


def arguments(kind: type[nn.Module]) -> type[BaseModel]:
    """The arguments of a constructor as a closed block; one that is a module itself is a block of its own in it."""
    hints = get_type_hints(kind.__init__)
    fields: Any = {
        name: (_typed(hints[name]), ... if one.default is Parameter.empty else one.default)
        for name, one in signature(kind).parameters.items()
    }
    return create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _typed(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, nn.Module):
        return arguments(hint)
    parts = get_args(hint)  # of `PoseVAE | None`
    return reduce(or_, map(_typed, parts)) if type(None) in parts else hint


def _refuse_absurd(node: Any, place: str) -> None:
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        _refuse_absurd(value, f"{place}.{key}")
    if isinstance(node, int) and not 0 <= node <= LARGEST:
        raise ArtifactError(f"{place}: {node} is beyond any model, 0 to {LARGEST}: run `dvc repro` for it.")


def _told(read: Callable[[], T]) -> T:
    """What a file says, or that the file is wrong: it is no params.yaml, which the reader could mend."""
    try:
        return read()
    except ParamsError as error:
        raise ArtifactError(f"{error}\nThe file is damaged or of another version: run `dvc repro` for it.") from error


def _about(folder: Path) -> About:
    path = folder / ABOUT
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: run `dvc repro bootstrap` (or `train`).")
    try:
        tree = json.loads(path.read_text())
    except PermissionError as error:
        raise may_read(path) from error
    except ValueError:
        tree = None
    if not isinstance(tree, dict) or not tree.keys() >= {"model", "args", "reads"}:
        raise ArtifactError(f"{path} describes no model: run `dvc repro` for it.")
    return _told(lambda: build(About, tree, "model", str(path)))
