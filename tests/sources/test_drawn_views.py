"""Drawn views: what the network makes of warped and lit crops is what a store of these views would hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.sources.test_pixel_views import DARK, LIT, MOVING, STILL
from tests.starts.test_starts import HEADS, LINES, TRAIN
from tests.starts.test_starts import PROJECTION as TRAINING_FREE
from tests.training.test_bootstrap import count
from uld.artifacts.models import Origin
from uld.base import ranks, stop
from uld.base.errors import ArtifactError, BackboneError, ParamsError
from uld.base.params import build
from uld.diffusion import backbone, extract, reduce
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.online import LatentStore, Network
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.store import Features, FeatureStore
from uld.geometry import coords, warps
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops, as_images
from uld.sources import drawn_views, opened, pixel_views
from uld.sources.drawn_views import DrawnViews
from uld.sources.pixel_views import PixelViews
from uld.sources.stored_views import StoredViews
from uld.sources.views import Ahead, Batch
from uld.starts.base import Made, Site
from uld.starts.heads import HeadsStart, HeadsStartParams

SIZE, GRID, SEED = 32, 16, 3
ROWS = np.arange(5)  # the training images
READOUT = ReadoutParams(((0, 1), (1, 0)), (24, 142), "add_noise", 50, "float32")
NAMES = ["l01_t24", "l10_t142"]
BANK = (ViewParams(False, 0, 1), ViewParams(True, 0, 1), ViewParams(False, 90, 1), ViewParams(True, 90, 1))
TURNED = STILL | {"rotate": 90}
LAYERS: dict[str, Any] = {"layers": [[0, 1], [1, 0]]}
PROJECTION, SIZES = TRAINING_FREE | LAYERS, HEADS | LAYERS | {"timesteps": [24], "descriptor": "head"}
Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path: Path, crops32: Crops, photographs: tuple[Path, pd.DataFrame], pixel_folder: Path) -> Fill:
    """Makes artifacts/ with crops, boxes and the store `trained`."""

    def make(keep: str = "latents", policy: Any = "add_noise", dims: int = 0) -> Path:
        (tmp_path / "roi").mkdir()
        shutil.copytree(crops32._path, tmp_path / "roi/crops.zarr")
        photographs[1].assign(score=1.0, provider="full").to_csv(tmp_path / "roi/boxes.csv", index=False)
        timesteps = (20, 140) if policy == "invert" else READOUT.timesteps
        readout = ReadoutParams(READOUT.layers, timesteps, policy, 50, "float32")
        store, warp = StoreParams(True, keep, BANK, False), coords.view(SIZE, rotate=20)[None]  # type: ignore[arg-type]
        reduction = ReduceParams(dims, 5) if dims else None
        extractor = Extractor(backbone.load(pixel_folder), readout, SEED)
        path = tmp_path / "features/trained.zarr"
        extract.fill(path, extractor, crops32, photographs[1], store, reduction, SEED, warp, pixel_folder)
        return tmp_path

    return make


def views(root: Path, warp: dict[str, Any] = MOVING, light: dict[str, Any] = DARK) -> DrawnViews:
    found, digest = drawn_views.open_views(*given(root, warp, light))
    assert digest == FeatureStore(root / "features/trained.zarr").digest
    return found


def pixels(root: Path, warp: dict[str, Any] = MOVING, light: dict[str, Any] = DARK) -> PixelViews:
    """What draws the same views of images."""
    return pixel_views.open_views(*given(root, warp, light))[0]


def given(root: Path, warp: dict[str, Any], light: dict[str, Any]) -> tuple[Any, ...]:
    crops, boxes = Crops(root / "roi/crops.zarr"), pd.read_csv(root / "roi/boxes.csv")
    frames = Frames(crops.affine, corners(boxes), crops.inside, SIZE, GRID)
    return Origin("features/trained", "", {"warp": warp, "light": light}, 0), crops, frames, ROWS, None, root


def features(batch: Batch) -> Features:
    assert isinstance(batch.inputs, dict)
    return batch.inputs


def close(one: Features, other: Features, tolerance: float = 5e-3) -> None:
    """Up to the rounding of latents and features to float16."""
    assert list(one) == list(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=tolerance, rtol=tolerance)


def same(one: Batch, other: Batch) -> bool:
    """To the last bit."""
    maps = zip(features(one).values(), features(other).values(), strict=True)
    return all(torch.equal(*pair) for pair in [*maps, (one.warp.affine, other.warp.affine), (one.inside, other.inside)])


class Farthest(np.random.Generator):
    """Draws the largest turn."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: Any = 0, high: Any = 1, size: Any = None) -> Any:
        """The upper end."""
        return np.full(size, float(high))


# --- what is read ---


@pytest.mark.parametrize("keep", ["features", "latents"])
@pytest.mark.parametrize(("policy", "dims"), [("add_noise", 0), ("clean", 3), ("invert", 3)])
def test_views_of_the_bank_are_as_the_store_has_them(fill: Fill, keep: str, policy: str, dims: int) -> None:
    """The crop, its mirror image, and both turned by 90 degrees."""
    root = fill(keep, policy, dims)
    rows, flipped = np.array([4, 0, 4, 2]), np.array([False, True, True, False])
    for warp, turned in ((STILL, 0), (TURNED, 2)):
        found = views(root, warp)
        names = found.store.names[-1:]
        batch = found.draw(rows, flipped, Farthest(), names)
        close(features(batch), found.store.views_of(rows, turned + flipped, names))
        np.testing.assert_allclose(batch.warp.affine, found.store.views[turned + flipped], atol=1e-9)
        np.testing.assert_array_equal(batch.flipped, flipped)


@pytest.mark.parametrize("keep", ["features", "latents"])
def test_features_are_those_of_the_warped_and_lit_crop(fill: Fill, pixel_folder: Path, keep: str) -> None:
    """One item at a time, by the network itself and in plain steps."""
    root = fill(keep, dims=3)
    extractor = Extractor(backbone.load(pixel_folder), READOUT, SEED)
    reduction, crops = reduce.load(root / "features/trained.zarr"), Crops(root / "roi/crops.zarr")
    assert reduction is not None
    rows, flipped = np.array([1, 3, 1]), np.array([True, False, False])
    batch = views(root, light=LIT).draw(rows, flipped, np.random.default_rng(7), NAMES)
    lit = pixels(root, light=LIT).draw(rows, flipped, np.random.default_rng(7), [])
    assert isinstance(lit.inputs, torch.Tensor)
    for item, row in enumerate(rows):
        image = as_images(crops.images(np.array([row])), torch.device("cpu"))
        warped = batch.warp.take(slice(item, item + 1)).resample(image)
        assert (warped - image).abs().mean() > 0.01 < (lit.inputs[item] - warped).abs().mean()
        made = reduction(extractor(lit.inputs[item : item + 1]))
        want = {name: made[name].half().float() for name in NAMES}
        close({name: value[item : item + 1] for name, value in features(batch).items()}, want, 2e-3)


def test_light_changes_the_features_alone(fill: Fill) -> None:
    root, flipped = fill(), np.zeros(5, bool)
    dark, lit = (
        views(root, STILL, light).draw(ROWS, flipped, np.random.default_rng(0), NAMES) for light in (DARK, LIT)
    )
    assert torch.equal(dark.inside, lit.inside) and torch.equal(dark.warp.affine, lit.warp.affine)
    assert all((features(lit)[name] - value).abs().mean() > 0.01 for name, value in features(dark).items())


def test_a_store_of_latents_has_the_network_open_already(fill: Fill) -> None:
    found = views(fill())
    assert isinstance(found.store, LatentStore) and found._network is found.store.network


def test_whoever_does_not_train_reads_the_store(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed views run no network, and only training opens what draws others."""
    root = fill("features")
    found, boxes = views(root), pd.read_csv(root / "roi/boxes.csv")
    monkeypatch.setattr(Network, "of_images", lambda *_: pytest.fail("runs the network"))
    for number, view in enumerate([found.plain, found.flips[1], *found.turned]):
        read, want = found.inputs(ROWS, view, NAMES), found.store.read(ROWS, number, NAMES)
        assert isinstance(read, dict) and all(torch.equal(read[name], want[name]) for name in NAMES)
    assert len(found.evaluation) == 1 and found.inputs(np.array([6]), found.evaluation[0], NAMES)
    origin = given(root, MOVING, DARK)[0]
    kinds = {
        training: type(opened.open_views(origin, GRID, boxes, root=root, training=training)[0]) for training in (0, 1)
    }
    assert kinds == {False: StoredViews, True: DrawnViews}
    origin = Origin("roi/crops", "", origin.views, 0)
    assert type(opened.open_views(origin, GRID, boxes, root=root, training=True)[0]) is PixelViews


# --- where things are ---


def test_points_and_partners_follow_the_warp(fill: Fill) -> None:
    """A point of a photograph is where the warp takes it; masks and partners are those of the views of images."""
    root = fill()
    found, images = views(root), pixels(root)
    batch = found.pairs(ROWS, False, np.random.default_rng(1), NAMES)
    drawn = images.pairs(ROWS, False, np.random.default_rng(1), [])
    assert torch.equal(batch.warp.affine, drawn.warp.affine) and torch.equal(batch.inside, drawn.inside)
    assert batch.warp.bend is not None and drawn.warp.bend is not None and torch.equal(batch.warp.bend, drawn.warp.bend)
    np.testing.assert_array_equal(batch.rows, np.tile(ROWS, 2))
    partner = found.partner(batch)
    first, second = batch.warp.take(slice(5)), batch.warp.take(slice(5, 10))
    assert torch.equal(partner, warps.partner(first, second, GRID)) and (partner >= 0).float().mean() > 0.4
    xy = np.random.default_rng(2).uniform(8, 34, (10, 6, 2)).astype(np.float32)
    cells = found.to_cells(batch, xy).double()
    crop = batch.warp.to_crop((cells + 0.5) * (SIZE / GRID) - 0.5).numpy()
    back = coords.apply(coords.invert(found.frames.affine[batch.rows]), crop)
    np.testing.assert_allclose(back, xy, atol=1e-3)


def test_without_a_bend_points_go_by_hand(fill: Fill) -> None:
    found = views(fill(), TURNED)
    batch = found.draw(ROWS, np.zeros(5, bool), Farthest(), NAMES)
    crop = np.array([[[4.5, 9.0], [20, 31]]], np.float32).repeat(5, 0)
    image = coords.apply(coords.invert(found.frames.affine[ROWS]), crop)
    x, y = crop[..., 0], crop[..., 1]
    turned = np.stack([SIZE - 1 - y, x], 2)  # x turns towards y
    np.testing.assert_allclose(found.to_cells(batch, image), (turned + 0.5) * GRID / SIZE - 0.5, atol=1e-4)


# --- the generator alone decides ---


@pytest.mark.parametrize("workers", ["0", "1", "3"])
def test_a_step_depends_on_its_number_alone(fill: Fill, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)
    root = fill()

    def read(found: DrawnViews, number: int) -> Batch:
        rng = np.random.default_rng(number)
        return found.pairs(rng.choice(ROWS, 2), True, rng, NAMES)

    shared = views(root, light=LIT)
    batches = Ahead(lambda number: read(shared, number), 8)
    found = [batches(number) for number in range(8)]
    assert all(same(read(views(root, light=LIT), number), found[number]) for number in (0, 7))
    assert len({batch.warp.affine.numpy().tobytes() for batch in found}) == 8


def test_a_process_takes_its_share(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what the network makes; all know all warps and masks."""
    found = views(fill(), light=LIT)
    whole = found.pairs(ROWS, True, np.random.default_rng(0), NAMES)
    own = np.array([1, 4, 9, 9])
    monkeypatch.setattr(ranks, "share", lambda count: own)
    part = found.pairs(ROWS, True, np.random.default_rng(0), NAMES)
    close(features(part), {name: value[own] for name, value in features(whole).items()}, 2e-3)
    assert torch.equal(part.warp.affine, whole.warp.affine) and torch.equal(part.inside, whole.inside)


# --- a start that is trained on them ---


def made(root: Path, drawn: bool = True, **changes: Any) -> Made:
    """Of the start `silk`, as the stage bootstrap makes it; `changes` of its training."""
    how = {"warp": MOVING, "light": DARK} if drawn else None
    line = LINES["heads"] | {"projection": PROJECTION, "network": SIZES, "views": how, "train": TRAIN | changes}
    start = HeadsStart(build(HeadsStartParams, line, "starts.silk"))
    assert start.views == how
    boxes = pd.read_csv(root / "roi/boxes.csv")
    origin = Origin("features/trained", "", start.views, 0)
    seen, _ = opened.open_views(origin, start.grid, boxes, root=root, training=True)
    return start.make(Site(seen, Crops(root / "roi/crops.zarr"), 0, root / "state.pt", "silk"))


def alike(one: Made, other: Made) -> bool:
    """To the last bit."""
    assert one.history is not None and other.history is not None
    states = one.model.state_dict(), other.model.state_dict()
    return one.history.equals(other.history) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def test_it_learns(fill: Fill) -> None:
    """From random weights, as in the paper. It begins where a start does whose views are stored, and goes elsewhere."""
    root = fill("features")
    history = made(root, steps=30).history
    assert history is not None and history["nll"][-8:].mean() < 0.95 * history["nll"][:8].mean()
    assert alike(made(root, steps=0), made(root, drawn=False, steps=0))
    assert not alike(made(root, steps=1), made(root, drawn=False, steps=1))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_and_resumed(fill: Fill, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)
    root = fill()
    whole = made(root, steps=5)
    asked = count(monkeypatch, 2, "matching")
    with pytest.raises(stop.Interrupted, match="bootstrap silk saved at step 3 of 5"):
        made(root, steps=5)
    assert (root / "state.pt").is_file() and alike(made(root, steps=5), whole)
    assert len(asked) == 5 and not (root / "state.pt").exists()


def test_a_teachers_points_reach_every_view(fill: Fill) -> None:
    """A classical detector's points lie where the drawn warps take them."""
    keypoints = {"by": "classical", "detector": "sift", "points": 4, "scale": 4, "robust": 0.9}
    history = made(fill(), steps=2, keypoints=keypoints).history
    assert history is not None and history["detector"].gt(0).all()


# --- refusals ---


def test_a_store_of_another_network(fill: Fill) -> None:
    """A store of features is read without its network, and drawing needs the very one."""
    root = fill("features")
    spec = root / "features/trained.zarr/zarr.json"
    about = json.loads(spec.read_text())
    about["attributes"]["spec"]["backbone"] = "another"
    spec.write_text(json.dumps(about))
    with pytest.raises(
        ArtifactError, match=r"trained.zarr was made with another backbone .*: run `dvc repro features`"
    ):
        views(root)


def test_a_store_without_its_network(fill: Fill) -> None:
    root = fill("features")
    shutil.rmtree(root / "features/trained.zarr/backbone/scheduler")
    with pytest.raises(BackboneError, match="scheduler"):
        views(root)


def test_a_store_of_other_crops(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill()
    monkeypatch.setattr(Crops, "fingerprint", lambda crops: "of other crops")
    with pytest.raises(ArtifactError, match=r"trained.zarr does not fit \(crops: .*\): run `dvc repro features`"):
        views(root)


def test_params_of_an_earlier_version() -> None:
    line = {key: value for key, value in LINES["heads"].items() if key != "views"}
    with pytest.raises(ParamsError, match=r"params\.yaml: starts\.silk\.views: key is missing"):
        build(HeadsStartParams, line, "starts.silk")


def test_wrong_views(fill: Fill) -> None:
    line = LINES["heads"] | {"views": {"warp": MOVING | {"rotate": 200}, "light": DARK}}
    with pytest.raises(ParamsError, match=r"starts\.silk\.views\.warp\.rotate"):
        build(HeadsStartParams, line, "starts.silk")
    with pytest.raises(ParamsError, match=r"views\.warp\.rotate"):
        views(fill(), MOVING | {"rotate": 200})
