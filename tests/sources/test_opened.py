"""Models of artifacts/rounds/ over what they read; what was made for something else is refused with the remedy."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import SIZE, Texture
from tests.sources.test_pixel_views import DARK, MOVING
from uld.artifacts.files import write_table
from uld.artifacts.labels import Labels, write_labels
from uld.artifacts.models import Origin, save_model
from uld.base.errors import ArtifactError
from uld.geometry import coords
from uld.images.crops import Crops
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen
from uld.sources.opened import last_labels, open_model, open_views, trained_more, training_rows
from uld.sources.pixel_views import PixelViews
from uld.sources.stored_views import StoredViews

GRID = 8
DRAWN: dict[str, Any] = {"warp": MOVING, "light": DARK}


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("texture"))


@pytest.fixture
def root(tex: Texture, tmp_path: Path) -> Path:
    """A folder artifacts/ with boxes, crops, a store, and a model of each kind."""
    (tmp_path / "roi").mkdir()
    write_table(tmp_path / "roi/boxes.csv", tex.boxes.assign(provider="full"))
    shutil.copytree(tex.store.path.with_name("crops.zarr"), tmp_path / "roi/crops.zarr")
    shutil.copytree(tex.store.path, tmp_path / "features/trained.zarr")
    base = Frozen(["l00_t5"], [8], 5, GRID, "image")
    base.projection.copy_(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    save_model(base, tmp_path / "rounds/frozen", Origin("features/trained", tex.store.digest, None, 0))
    encoder = Encoder(SIZE, GRID, [8, 8], 5, 8, 4)
    save_model(encoder, tmp_path / "rounds/pixels", Origin("roi/crops", tex.crops.fingerprint(), DRAWN, 40))
    return tmp_path


def test_a_model_over_a_store(tex: Texture, root: Path) -> None:
    opened = open_model("frozen", root=root)
    assert isinstance(opened.views, StoredViews) and isinstance(opened.model, Frozen)
    assert opened.views.rows.tolist() == tex.rows.tolist() and len(opened.views.evaluation) == len(texture.WARPS)
    assert opened.origin.steps == 0 and opened.boxes["image"].tolist() == tex.boxes["image"].tolist()
    rows, source = np.array([5, 7]), opened.source
    want = opened.model.describe(tex.store.read(rows))
    assert torch.equal(source.describe(rows, source.views.plain), want)
    place = tex.frames(GRID)
    np.testing.assert_array_equal(
        source.inside(rows, source.views.plain).cpu(), place.inside(rows, source.views.plain.affine)
    )


def test_a_model_over_crops(tex: Texture, root: Path) -> None:
    """It needs no store, draws as it did when it was started, and sees test images in the warps that it is told."""
    shutil.rmtree(root / "features")
    asked: list[int] = []

    def warps(size: int) -> np.ndarray:
        asked.append(size)
        return np.stack([coords.view(size, rotate=9)])

    opened = open_model("pixels", warps, root)
    assert isinstance(opened.views, PixelViews) and isinstance(opened.model, Encoder) and asked == [SIZE]
    assert opened.origin == Origin("roi/crops", tex.crops.fingerprint(), DRAWN, 40)
    assert [view.affine.tolist() for view in opened.views.evaluation] == [coords.view(SIZE, rotate=9).tolist()]
    assert len(opened.views.turned) == 4 and opened.views.rows.tolist() == tex.rows.tolist()
    rows = np.array([5, 7])
    found = opened.views.inputs(rows, opened.views.plain, [])
    assert isinstance(found, torch.Tensor)
    want = torch.from_numpy(tex.crops.images(rows)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found.cpu(), want, atol=1e-5, rtol=0)
    assert open_model("pixels", root=root).views.evaluation == []


# --- what does not belong together ---


@pytest.mark.parametrize("name", ["frozen", "pixels"])
def test_a_model_of_something_else(root: Path, name: str) -> None:
    opened = open_model(name, root=root)
    save_model(opened.model, root / f"rounds/{name}", replace(opened.origin, made_of="another digest"))
    reads = opened.origin.reads
    with pytest.raises(ArtifactError, match=rf"rounds/{name} was made for another {reads}: run `dvc repro bootstrap`"):
        open_model(name, root=root)


def test_a_store_of_other_crops(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Crops, "fingerprint", lambda crops: "of other crops")
    with pytest.raises(ArtifactError, match=r"trained.zarr does not fit \(crops: .*\): run `dvc repro features`"):
        open_model("frozen", root=root)


def test_what_is_missing(root: Path) -> None:
    with pytest.raises(ArtifactError, match=r"silk/model.json is missing: run `dvc repro bootstrap train` first"):
        open_model("silk", root=root)
    shutil.rmtree(root / "features")
    with pytest.raises(ArtifactError, match=r"trained.zarr/zarr.json is missing: run `dvc repro features` first"):
        open_model("frozen", root=root)
    shutil.rmtree(root / "roi/crops.zarr")
    with pytest.raises(ArtifactError, match=r"crops.zarr.* is missing: run `dvc repro roi` first"):
        open_model("pixels", root=root)


def test_views_alone(tex: Texture, root: Path) -> None:
    """For a start, which has no model yet."""
    views, made_of = open_views(Origin("features/trained", "", None, 0), 12, tex.boxes, root=root)
    assert isinstance(views, StoredViews) and made_of == tex.store.digest and views.frames.grid == 12
    views, made_of = open_views(Origin("roi/crops", "", DRAWN, 0), 16, tex.boxes, root=root)
    assert isinstance(views, PixelViews) and made_of == tex.crops.fingerprint() and views.frames.grid == 16


# --- small things beside ---


def test_training_rows(tex: Texture) -> None:
    mixed = tex.boxes.assign(split=["test", "train", "test", "train", "train", "test", "train", "test"])
    assert training_rows(mixed).tolist() == [1, 3, 4, 6]


def test_the_labels_that_a_model_was_trained_on(root: Path) -> None:
    assert last_labels("frozen", root) is None
    one, yes = np.array([3]), np.array([True])
    labels = Labels(one, yes, one, np.ones((1, 2), np.float32), np.ones(1, np.float32), yes, 4)
    write_labels(root / "rounds/frozen/labels.h5", labels)
    found = last_labels("frozen", root)
    assert found is not None and found.image.tolist() == [3] and found.count == 4


def test_trained_more() -> None:
    before = Origin("roi/crops", "digest", DRAWN, 40)
    assert trained_more(before, 25) == replace(before, steps=65)
