"""A photograph gets what its crop gets in the data set."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from uld import sources
from uld.base.errors import ArtifactError
from uld.diffusion import extract
from uld.diffusion.backbone import Backbone
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.store import FeatureStore
from uld.geometry import coords
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops
from uld.images.cut import cut
from uld.images.decode import decode
from uld.models.base import Model
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen
from uld.sources.crop_views import CropViews
from uld.sources.live import LiveViews, Reader
from uld.sources.source import Source
from uld.sources.stored_views import StoredViews
from uld.sources.views import View, Views

SIZE, GRID = 32, 8
Photographs = tuple[Path, pd.DataFrame]


def taken(photographs: Photographs, rows: np.ndarray, read: Reader) -> LiveViews:
    """Some of the photographs, decoded and cut anew."""
    folder, boxes = photographs
    edges = corners(boxes)[rows]
    affine = coords.crop(edges, 0.0, SIZE)
    parts = [cut(decode(folder / boxes["image"][row]), one, SIZE) for row, one in zip(rows, affine, strict=True)]
    pixels, inside = (np.stack(part) for part in zip(*parts, strict=True))
    return LiveViews(read, pixels, inside, affine, edges, GRID)


def frames(crops: Crops, photographs: Photographs) -> Frames:
    return Frames(crops.affine, corners(photographs[1]), crops.inside, SIZE, GRID)


def compare(model: Model, stored: Views, fresh: LiveViews, rows: np.ndarray, atol: float) -> None:
    """All that a method asks for, of images `rows` of the data set and of their photographs."""
    known, found = Source(model, stored), Source(model, fresh)
    own, some = np.arange(len(rows)), np.array([2, 0])
    for index in (own, some):
        want, got = known.describe(rows[index], known.views.plain), found.describe(index, found.views.plain)
        torch.testing.assert_close(got, want, atol=atol, rtol=0)
        if model.channels:
            want, got = (s.maps(i, s.views.plain).heat for s, i in ((known, rows[index]), (found, index)))
            torch.testing.assert_close(got, want, atol=atol, rtol=0)
        inside = found.inside(index, found.views.plain)
        assert torch.equal(inside, known.inside(rows[index], known.views.plain)) and inside.any()
        cells = np.random.default_rng(0).uniform(0, GRID - 1, (len(index), 5, 2)).astype(np.float32)
        at = found.to_image(index, cells, found.views.plain)
        np.testing.assert_allclose(at, known.to_image(rows[index], cells, known.views.plain), atol=1e-4)
        np.testing.assert_allclose(found.to_cells(index, at, found.views.plain), cells, atol=1e-4)


def test_a_model_that_reads_images(crops32: Crops, photographs: Photographs) -> None:
    rows = np.array([6, 1, 3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Encoder(SIZE, GRID, [8, 8, 8], 6, 8, 4).eval()
    plain = View(coords.view(SIZE), flipped=False)
    stored = CropViews(crops32, frames(crops32, photographs), [plain], [], [])
    pixels = sources.of("roi/crops")
    pixels.pack("roi/crops", Path("no-such-folder"), Path("no-bundle"))  # it needs no other file
    fresh = taken(photographs, rows, pixels.reader(model, Path("no-bundle")))
    compare(model, stored, fresh, rows, 1e-4)
    flipped, plain_inputs = (fresh.inputs(np.arange(2), view, []) for view in (fresh.mirror(fresh.plain), fresh.plain))
    assert isinstance(flipped, torch.Tensor) and isinstance(plain_inputs, torch.Tensor)
    assert torch.equal(flipped, plain_inputs.flip(-1))
    assert fresh.flips == [fresh.plain] and fresh.turned == fresh.evaluation == [] and not fresh.plain.flipped


def test_a_model_that_reads_features(
    crops32: Crops, photographs: Photographs, pixel: Backbone, pixel_folder: Path, tmp_path: Path
) -> None:
    """A store rounds features to float16, and the features of a photograph are rounded as well."""
    readout = ReadoutParams(((0, 1), (1, 0)), (24,), "add_noise", 50, "float32")
    bank = StoreParams(True, "features", (ViewParams(False, 0, 1),), False)
    path, warps = tmp_path / "features/trained.zarr", np.empty((0, 2, 3))
    extract.fill(path, Extractor(pixel, readout, 0), crops32, photographs[1], bank, None, 0, warps, pixel_folder)
    opened = FeatureStore(path)
    names = opened.names
    sizes = [value.shape[1] for value in opened.read(np.array([0])).values()]
    model = Frozen(names, sizes, 6, GRID, "image")
    model.projection.copy_(torch.randn(model.projection.shape, generator=torch.Generator().manual_seed(0)))
    (tmp_path / "bundle").mkdir()
    stored = sources.of("features/trained")
    stored.pack("features/trained", tmp_path, tmp_path / "bundle")
    rows = np.array([6, 1, 3])
    fresh = taken(photographs, rows, stored.reader(model, tmp_path / "bundle"))
    compare(model, StoredViews(opened, frames(crops32, photographs), np.arange(5)), fresh, rows, 2e-3)

    about = tmp_path / "bundle/readout.json"
    about.write_text(about.read_text().replace(pixel.fingerprint, "another"))
    with pytest.raises(ArtifactError, match="its backbone is not the one it was made with: run `dvc repro predict`"):
        stored.reader(model, tmp_path / "bundle")
