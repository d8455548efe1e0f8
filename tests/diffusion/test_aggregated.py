"""The store of what a frozen trunk makes: the items of its parent, what made it, and its own checksum."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from uld.diffusion import aggregated
from uld.diffusion.store import FeatureStore
from uld.models.aggregator import Aggregator
from uld.models.frozen import Frozen
from uld.models.heads import Heads


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


@pytest.fixture
def head() -> Heads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = Frozen(["l00_t5"], [8], 5, 16, "image")
        base.projection.copy_(torch.randn(5, 8))
        return Heads(base, Aggregator(["l10_t5"], [6], 4, 8, 4, 16), 8, "linear").eval()


def test_every_item_of_the_parent(tmp_path: Path, tex: Texture, head: Heads) -> None:
    (tex.store.path / "backbone/uld.json").write_text("{}")
    aggregated.fill(tmp_path / "silk.zarr", tex.store, head, "its weights", "silk")
    found = FeatureStore(tmp_path / "silk.zarr")
    np.testing.assert_array_equal(found.layout.items, tex.store.layout.items)
    np.testing.assert_array_equal(found.views, tex.store.views)
    assert (found.bank, found.flipped.tolist()) == (tex.store.bank, tex.store.flipped.tolist())
    assert (found.path / "backbone/uld.json").read_text() == "{}"
    for row, view in found.layout.items:
        with torch.no_grad():
            want = head.trunk(tex.store.read(np.array([row]), view))
        for name, value in found.read(np.array([row]), view).items():
            torch.testing.assert_close(value, want[name], atol=2e-3, rtol=2e-3)  # float16


def test_it_says_what_it_was_made_of(tmp_path: Path, tex: Texture, head: Heads) -> None:
    aggregated.fill(tmp_path / "silk.zarr", tex.store, head, "its weights", "silk")
    spec, parent = FeatureStore(tmp_path / "silk.zarr").spec, tex.store.spec
    assert (spec["keep"], spec["trunk"]) == ("aggregated", "its weights")
    assert spec["parent"] == parent["digest"] != spec["digest"]
    assert {key: spec[key] for key in ("rows", "crops", "backbone")} == {
        key: parent[key] for key in spec if key in ("rows", "crops", "backbone")
    }
