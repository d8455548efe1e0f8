"""Starts and rounds on planted textures whose teacher is a file of points."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.diffusion import texture
from tests.diffusion.texture import HEIGHT, SIZE, WIDTH, Texture
from tests.methods.test_mallis_ch4 import BLOCK as CHAPTER4
from tests.sources.test_pixel_views import DARK, MOVING
from tests.training.test_bootstrap import CONTRAST, GRID, points_of, run
from tests.training.test_bootstrap import LINE as HEADS
from uld.artifacts.files import write_table
from uld.base.errors import DataError, ULDError
from uld.base.params import build
from uld.geometry import coords, sampling
from uld.images.crops import as_images
from uld.keypoints.classical import described
from uld.landmarks.detect import Points
from uld.landmarks.generic import GenericParams, generic
from uld.methods import load
from uld.methods.base import Task
from uld.models.encoder import Encoder
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.sources.source import Source
from uld.starts.base import Site
from uld.starts.encoder import EncoderStart, EncoderStartParams

LOW, HIGH = np.array([3.5, 2.5]), np.array([43.5, 36.5])  # of the object boxes
BESIDE = (40.0, 38.0)  # in the crop and in the photograph, below the box


@pytest.fixture(scope="module")
def tex(tmp_path_factory: pytest.TempPathFactory) -> Texture:
    return texture.make(tmp_path_factory.mktemp("dotted"), contrast=0.1)


@pytest.fixture(autouse=True)
def here(tex: Texture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project after the stages data and roi."""
    monkeypatch.chdir(tmp_path)
    index = tex.boxes[["image", "split"]].assign(group="", sha256="", status="ok", reason="", width=WIDTH)
    for folder, name, table in (("data", "index", index.assign(height=HEIGHT)), ("roi", "boxes", tex.boxes)):
        (tmp_path / "artifacts" / folder).mkdir(parents=True)
        write_table(tmp_path / f"artifacts/{folder}/{name}.csv", table.assign(provider="full"))


def written(points: dict[int, Any]) -> dict[str, str]:
    """The block of a file with points (P, 2) of some images."""
    lines = [(f"{row}.png", *at) for row, some in points.items() for at in np.asarray(some, float)]
    write_table(Path("points.csv"), pd.DataFrame(lines, columns=["image", "x", "y"]))
    found = hashlib.sha256(Path("points.csv").read_bytes()).hexdigest()
    return {"by": "file", "path": "points.csv", "sha256": found}


def dots(tex: Texture) -> dict[str, str]:
    """The block of a file with all dots."""
    return written(dict(enumerate(tex.dots)))


# --- bootstrap ---


def test_points_are_those_of_the_file(tex: Texture) -> None:
    """Of training images; an image without a line has none."""
    block = written({7: [(5, 5)], 2: [(20, 9.5), BESIDE], 0: tex.dots[0]})
    found = points_of(tex, keypoints=block)
    assert found.shape == (6, 3, 2)
    np.testing.assert_allclose(found[0], tex.dots[0], atol=1e-3)
    np.testing.assert_allclose(found[2, :2], [(20, 9.5), BESIDE], atol=1e-3)
    assert np.isnan(found[[1, 3, 4, 5]]).all() and np.isnan(found[2, 2]).all()


def test_outliers_look_like_few_others(tex: Texture) -> None:
    """Two thirds of the points lie on dots, which look alike, and the rest on flat ground."""
    flat = np.array([(6, 5), (40, 33), (6, 33)])
    block = written({row: [*tex.dots[row, :2], flat[row % 3]] for row in range(6)})
    found = points_of(tex, keypoints=block, outliers=1 / 3)
    kept = found[np.isfinite(found).all(2)]
    assert len(kept) == 12 and ((kept >= LOW) & (kept <= HIGH)).all()
    assert points_of(tex, keypoints=block).shape == (6, 3, 2)


def test_a_start_on_features_learns_where_the_file_points(tex: Texture) -> None:
    head, history = run(tex, keypoints=dots(tex), steps=25, lr=2e-2)
    assert history["detector"].iloc[-5:].mean() < history["detector"].iloc[:5].mean()
    rows = np.array([6, 7])  # in images it has not seen
    with torch.no_grad():
        heat = head(tex.store.read(rows, 0)).heat
    at = torch.from_numpy(tex.frames(GRID).to_cells(rows, tex.dots[rows], coords.view(SIZE)))
    on = sampling.sample(heat, at).mean()
    assert on > 2 * heat.mean(), (on, heat.mean())
    assert len(run(tex, keypoints=dots(tex), contrast=CONTRAST, outliers=0.2, steps=2)[1]) == 2


def pixels(tex: Texture) -> PixelViews:
    drawn = build(PixelViewParams, {"warp": MOVING, "light": DARK}, "views")
    return PixelViews(tex.crops.images, tex.crops.inside, tex.frames(GRID), tex.rows, drawn, np.empty((0, 2, 3)))


def test_a_start_on_images_is_taught_by_the_file(tex: Texture, tmp_path: Path) -> None:
    network = {"grid": GRID, "widths": [8, 8], "dims": 6, "hidden": 8, "groups": 4}
    line = {"model": "encoder", "reads": "roi/crops", "network": network, "views": {"warp": MOVING, "light": DARK}}
    start = build(EncoderStartParams, line | {"train": train(steps=3, keypoints=dots(tex))}, "starts.pixels")
    made = EncoderStart(start).make(Site(pixels(tex), tex.crops, 0, tmp_path / "state.pt", "pixels"))
    assert made.history is not None and len(made.history) == 3 and np.isfinite(made.history["detector"]).all()


def train(**changes: Any) -> dict[str, Any]:
    """The block `train` of the start on features, with some changes."""
    block = replace(HEADS.train, **changes)
    return vars(block) | {"optimiser": vars(block.optimiser)}


def test_no_training_image_is_named(tex: Texture) -> None:
    said = "file finds no point in any training image: see that the file names training images, and that its x and y"
    with pytest.raises(ULDError, match=said):
        run(tex, keypoints=written({6: [(5, 5)]}))
    with pytest.raises(DataError, match=r"line 3: \(5, 39.6\) lies outside the 48 x 40 pixels of '1.png'"):
        run(tex, keypoints=written({0: [(5, 5)], 1: [(5, 39.6)]}))


# --- rounds that a generic detector begins ---


def params(keypoints: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {"keypoints": keypoints, "scales": [1], "merge": 0, "outliers": 0} | changes


def named(tex: Texture, beside: bool = False, **changes: Any) -> list[tuple[np.ndarray, Points]]:
    """What a round begins with, of dots and a point beside each box."""
    block = written({row: [*tex.dots[row], BESIDE] for row in (0, 1, 2, 4, 5)})
    p = build(GenericParams, params(block, **changes), "points")
    views = pixels(tex)
    model = Encoder(SIZE, GRID, (8, 8), 6, 8, 4)
    return list(generic(Source(model, views), tex.rows, views.plain, p, np.random.default_rng(0), beside=beside))


@pytest.mark.parametrize("batch", ["1", "4"])
def test_rounds_begin_with_points_of_the_file(tex: Texture, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", batch)
    place = tex.frames(GRID)
    for beside in (False, True):
        for rows, points in named(tex, beside):
            for image, row in enumerate(rows):
                at = place.to_image(np.array([row]), points.xy[points.image == image][None], coords.view(SIZE))[0]
                want = np.array([BESIDE]) if beside else tex.dots[row]
                np.testing.assert_allclose(at, want[: 0 if row == 3 else None], atol=1e-3)
            crops = as_images(tex.crops.images(rows), torch.device("cpu"))
            pixel = coords.apply(coords.resize(GRID, SIZE), points.xy)
            looks = described(crops, [pixel[points.image == image] for image in range(len(rows))], 1)
            np.testing.assert_allclose(points.descriptor, np.concatenate(looks), atol=0.05)


def test_points_that_are_near_each_other_are_one(tex: Texture) -> None:
    assert [len(one.image) for _, one in named(tex, merge=GRID)] == [5]


def test_the_first_round_of_chapter_4_is_taught_by_the_file(tex: Texture) -> None:
    kind, views = load("mallis_ch4"), pixels(tex)
    block = CHAPTER4 | {"mirror": False, "points": params(dots(tex))}
    method = kind(build(kind.Cluster, block, "methods.mallis_ch4.cluster"))
    source = Source(Encoder(SIZE, GRID, (8, 8), 6, 8, 4), views)
    given = Task(source, tex.rows, 10, np.random.default_rng(0), None)
    labels = method.label(given, method.discover(given).landmarks).labels
    np.testing.assert_array_equal(labels.image, np.repeat(tex.rows, 3))
    found = np.sort(labels.xy.reshape(6, 3, 2), axis=1)
    np.testing.assert_allclose(found, np.sort(tex.dots[:6], axis=1), atol=1e-3)
