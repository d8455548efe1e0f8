"""What models promise: a literal table of them, what each can do, and `Maps`."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uld import models
from uld.base.errors import ParamsError
from uld.models.base import Maps, Model, whole
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen
from uld.models.heads import Heads


def test_the_table_is_literal_and_complete() -> None:
    """So that dependencies can be read off the code without running it: see uld/base/imports.py."""
    tree = ast.parse(Path(models.__file__).read_text())
    tables = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)
              and isinstance(node.targets[0], ast.Name)}  # fmt: skip
    assert ast.literal_eval(tables["MODELS"]) == models.MODELS
    found = set()
    for module in pkgutil.iter_modules(models.__path__):
        for _, cls in inspect.getmembers(importlib.import_module(f"uld.models.{module.name}"), inspect.isclass):
            if issubclass(cls, Model) and not inspect.isabstract(cls):
                found.add(f"{cls.__module__}:{cls.__name__}")
    assert found == set(models.MODELS.values())


def test_models_by_name_and_names_of_models() -> None:
    assert [models.kind(name) for name in ("frozen", "heads", "encoder")] == [Frozen, Heads, Encoder]
    assert models.name_of(Frozen(["l00_t1"], [3], 2, 4, "image")) == "frozen"
    assert models.name_of(Encoder(16, 8, [4], 3, 4, 2)) == "encoder"
    with pytest.raises(ParamsError, match="there is no model 'learned': choose one of frozen, heads, encoder"):
        models.kind("learned")


def test_what_models_can_do() -> None:
    assert [models.kind(name).reads_pixels for name in models.MODELS] == [False, False, True, True]
    plain, encoder = Frozen(["l00_t1"], [3], 2, 4, "image"), Encoder(16, 8, [4], 3, 4, 2, channels=5)
    assert (plain.channels, plain.encodes, plain.maps_read()) == (0, False, ["l00_t1"])
    assert (encoder.channels, encoder.encodes, encoder.maps_read()) == (5, False, [])


# --- Maps ---


def test_heat_and_looks() -> None:
    descriptors, logits = torch.ones(2, 3, 4, 4), torch.tensor([0.0, 3.0]).view(2, 1, 1, 1)
    maps = Maps(descriptors, logits)
    assert maps.looks is descriptors
    torch.testing.assert_close(maps.heat.flatten(), torch.tensor([0.5, 0.9525741]))
    with pytest.raises(AssertionError, match="no detector"):
        _ = Maps(descriptors).heat
    with pytest.raises(AssertionError, match="no descriptors"):
        _ = Maps(None, logits).looks


@pytest.mark.parametrize(
    "there", [(True, True, True), (True, False, False), (False, True, True), (False, False, False)]
)
def test_each_part_that_is_there(there: tuple[bool, ...]) -> None:
    parts = [torch.full((2, n), float(n)) if is_there else None for n, is_there in enumerate(there, 1)]
    changed = Maps(*parts).each(lambda part: part + 1)
    for part, found in zip(parts, (changed.descriptors, changed.logits, changed.code), strict=True):
        assert (found is None) == (part is None)
        assert part is None or (found is not None and torch.equal(found, part + 1))


def test_the_whole_of_one_process_is_what_it_said() -> None:
    parts: list[Tensor] = [torch.rand(3, 2, 4, 4), torch.rand(3, 1, 4, 4), torch.rand(3, 5)]
    found = whole(Maps(*parts), 3)
    assert all(torch.equal(one, part) for one, part in zip((found.looks, found.logits, found.code), parts, strict=True))
