"""What a model says of images in a view, over a store of features."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import Texture
from uld.base.errors import ULDError
from uld.models.aggregator import Aggregator
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.models.pose import PoseVAE
from uld.sources.source import Source

GRID = 8


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


def heads() -> tuple[Frozen, Heads]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = Frozen(["l00_t5"], [8], 5, GRID, "image")
        base.projection.copy_(torch.randn(5, 8))
        return base, Heads(base, Aggregator(["l10_t5"], [6], 4, 8, 4, GRID), 8, "linear", 2).eval()


def test_maps_of_a_model_with_a_detector(tex: Texture) -> None:
    _, head = heads()
    views, place = tex.views(GRID), tex.frames(GRID)
    source = Source(head, views)
    assert source.detects and not source.encodes and source.grid == GRID
    for rows, number, view in (
        ([6, 1], 0, views.plain),
        ([5, 1], 3, views.turned[1]),
        ([6, 7], 7, views.evaluation[1]),
    ):
        rows = np.array(rows)
        maps, want = source.maps(rows, view), head(tex.store.read(rows, number))
        assert torch.equal(maps.looks, want.looks) and torch.equal(source.describe(rows, view), want.looks)
        assert torch.equal(maps.heat, want.heat) and maps.code is None
        assert maps.heat.shape == (2, 2, GRID, GRID)
        assert not maps.heat.requires_grad and not maps.looks.requires_grad
        cells = np.full((2, 1, 2), 2.5, np.float32)
        at = source.to_image(rows, cells, view)
        np.testing.assert_array_equal(at, place.to_image(rows, cells, tex.store.views[number]))
        np.testing.assert_allclose(source.to_cells(rows, at, view), cells, atol=1e-4)
        np.testing.assert_array_equal(source.inside(rows, view).cpu(), place.inside(rows, tex.store.views[number]))


def test_a_model_without_a_detector(tex: Texture) -> None:
    base, _ = heads()
    source = Source(base, tex.views(GRID))
    rows = np.array([0, 5])
    assert not source.detects and not source.encodes
    assert torch.equal(source.describe(rows, source.views.turned[1]), base.describe(tex.store.read(rows, 3)))
    with pytest.raises(ULDError, match="this model has no detector: begin at a start that is trained, or at a round"):
        source.maps(rows, source.views.plain)


def test_codes_of_a_model_with_a_pose_part(tex: Texture) -> None:
    """The mean code of the higher one of its two heat maps, cell by cell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        pose = PoseVAE(GRID, 3, (4, 8), 2, "points")
    source = Source(heads()[1].with_pose(pose.without_decoder()).eval(), tex.views(GRID))
    assert source.encodes and source.detects
    rows = np.array([5, 1])
    for view in (source.views.plain, source.views.flips[1]):
        maps = source.maps(rows, view)
        assert 0 < (maps.heat[:, 0] > maps.heat[:, 1]).float().mean() < 1
        want, _ = pose.encode(torch.maximum(maps.heat[:, :1], maps.heat[:, 1:]))
        assert maps.code is not None and maps.code.shape == (2, 3)
        assert torch.equal(maps.code, want) and not maps.code.requires_grad
        assert (maps.code[0] - maps.code[1]).abs().max() > 1e-4


def test_only_what_the_model_reads_is_read(tex: Texture, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    views_of = type(tex.store).views_of

    def spy(store: Any, rows: Any, views: Any, names: list[str]) -> Any:
        asked.append(names)
        return views_of(store, rows, views, names)

    monkeypatch.setattr(type(tex.store), "views_of", spy)
    for head in heads():
        source = Source(head, tex.views(GRID))
        source.describe(np.arange(2), source.views.plain)
    assert asked == [["l00_t5"], ["l00_t5", "l10_t5"]]
