"""A model in a folder: artifacts/rounds/<start or round>/, and the same inside a detector bundle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from inspect import Parameter, signature
from operator import or_
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.dataclasses import dataclass as closed
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from uld import models
from uld.artifacts.files import checksum, contents, damaged, read_json
from uld.base.errors import ParamsError
from uld.base.params import CLOSED, build
from uld.base.writing import write
from uld.models.base import Model

ABOUT, WEIGHTS, MOMENTS = "model.json", "model.safetensors", "moments.safetensors"
MADE_BY = "bootstrap train"  # the stages whose folders hold a model
LARGEST = 2**14  # no size of a model is beyond it: a network of such a size would take all memory before it is refused


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    reads: what it reads, below artifacts/ and without its suffix, features/<store> or roi/crops; made_of: fingerprint
    of that; views: how training warps and lights the crops that it draws anew, None where its views are those of a
    store; steps: optimiser steps that it has been trained for, over all rounds.
    """

    reads: str
    made_of: str
    views: dict[str, Any] | None
    steps: int


@closed(frozen=True, config=CLOSED)
class About:
    """What model.json holds: what is in `Origin`, and

    model: name in `MODELS`; args: of its constructor; weights, moments: CRC-32C of the other files, None of moments
    that were not kept.
    """

    model: str
    args: dict[str, Any]
    weights: str
    reads: str
    made_of: str
    views: dict[str, Any] | None
    steps: Annotated[int, Field(ge=0)]
    moments: str | None = None


def save_model(model: Model, folder: Path, origin: Origin, moments: Mapping[str, Tensor] | None = None) -> None:
    """Write model.json and model.safetensors, and moments.safetensors if the optimiser remembers anything."""
    weights = save({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    kept = None
    if moments:
        data = save(dict(moments))
        kept = checksum(data)
        write(folder / MOMENTS, data)
    about = About(models.name_of(model), model.about(), checksum(weights), **asdict(origin), moments=kept)
    write(folder / WEIGHTS, weights)
    write(folder / ABOUT, (json.dumps(asdict(about), indent=1, sort_keys=True) + "\n").encode())


def read_moments(folder: Path) -> dict[str, Tensor]:
    """What the optimiser of a start or round remembers (`uld.training.fit.optimiser_state`); nothing if not kept.

    Raises:
        ArtifactError: there is no model, or its moments are damaged.
    """
    about = _about(folder)
    return {} if about.moments is None else load(_verified(folder / MOMENTS, about.moments))


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
        ArtifactError: there is none, an argument of it is wrong, or its weights are not those that were saved.
        ParamsError: this version has no model of that name.
    """
    about = _about(folder)
    weights = _verified(folder / WEIGHTS, about.weights)
    kind = models.kind(about.model)
    try:
        build(arguments(kind), about.args, "args", ABOUT)
        _refuse_absurd(about.args, "args")
        model = kind.of(about.args)
        model.load_state_dict(load(weights))
    except (SafetensorError, ParamsError, ArithmeticError, RuntimeError, ValueError) as error:
        raise damaged(folder / ABOUT, MADE_BY, f"it describes another model than {WEIGHTS} holds: {error}") from error
    return model.eval()


def _verified(path: Path, wanted: str) -> bytes:
    data = contents(path, MADE_BY)
    if checksum(data) != wanted:
        raise damaged(path, MADE_BY, "its checksum is another one")
    return data


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
        raise ValueError(f"{place}: {node} is beyond any model, 0 to {LARGEST}")


def _about(folder: Path) -> About:
    path = folder / ABOUT
    tree = read_json(path, MADE_BY)
    try:
        return build(About, tree, "model", str(path))
    except ParamsError as error:
        raise damaged(path, MADE_BY, error) from error
