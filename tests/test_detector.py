"""From photographs to landmarks and back through the bundle: a detector finds what the pipeline found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from uld import detector, methods, roi
from uld.artifacts import sums
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import sha256, write_table
from uld.artifacts.found import Found
from uld.artifacts.labels import Labels, write_labels
from uld.artifacts.landmarks import Landmarks
from uld.artifacts.models import WEIGHTS, Origin, load_model, save_model
from uld.artifacts.predictions import Predictions, write_predictions
from uld.base import random
from uld.base.errors import ArtifactError, ULDError
from uld.base.params import build
from uld.detector import Detector
from uld.diffusion import aggregated, backbone, extract, pinned
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.store import FeatureStore
from uld.geometry import coords
from uld.images.crops import Crops
from uld.images.cut import write as write_crops
from uld.images.decode import decode
from uld.landmarks.predict import predict
from uld.methods.base import Method, Task
from uld.methods.lines import RowParams
from uld.models.aggregator import Aggregator
from uld.models.base import Model
from uld.models.encoder import Encoder
from uld.models.frozen import Frozen, FrozenParams
from uld.models.heads import Heads
from uld.roi.full import Full, FullParams
from uld.sources.opened import last_labels, open_model, open_views
from uld.sources.stored_views import StoredViews
from uld.starts.base import Site
from uld.starts.frozen import FrozenStart

COUNT, GRID, CROP = 4, 16, 32
ROI = roi.RoiParams(providers=("full",), margin=0.1, crop=CROP, border=0.0, max_missing=0.0)
READOUT = ReadoutParams(((0, 1), (1, 0)), (24, 142), "add_noise", 50, "float32")
BANK = (ViewParams(False, 0, 1), ViewParams(True, 0, 1))
WARPS = coords.view(ROI.crop, rotate=180)[None]
START = FrozenParams(((0, 1), (1, 0)), 8, GRID, "image", 0.5, 8, 60, "frozen", "features/trained")
VIEWS = {
    "warp": {"mirror": True, "rotate": 10, "scale": 0.1, "shift": 0.1, "bend": {"displacement": 0, "grid": 3}},
    "light": dict.fromkeys(("brightness", "contrast", "saturation", "hue", "gamma", "noise"), 0)
    | {"blur": {"sigma": 0, "probability": 0}, "cutout": {"side": 0, "probability": 0}},
}
KMEANS = {"points": 60, "max_points": 1000, "restarts": 2, "iterations": 20}
BLOCKS: dict[str, dict[str, Any]] = {
    "zeroshot": KMEANS | {"refine": True},
    "mean_shape": {},
    "duld": KMEANS
    | {
        "pool": "detections",
        "over_clustering": 1,
        "recentre": 0,
        "images": 6,
        "detect": {"radius": 1, "threshold": 0.3, "min_points": 0, "max_points": 6, "heat_weight": 0.0},
        "label": {"max_distance": None, "dense": None},
    },
}


def method(name: str) -> Method:
    kind = methods.load(name)
    return kind(build(kind.Cluster, BLOCKS[name], f"methods.{name}.cluster"))


def photograph(seed: int) -> np.ndarray:
    """Coloured parts in about the same places, of any size and shape."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 90, 2)
    image = np.full((height, width, 3), 128, np.uint8)
    for x, y, colour in (
        (0.3, 0.35, (255, 0, 0)),
        (0.7, 0.35, (0, 255, 0)),
        (0.5, 0.6, (0, 0, 255)),
        (0.5, 0.8, (9, 9, 9)),
    ):
        at = rng.uniform(-0.05, 0.05, 2) * [width, height] + np.array([x * width, y * height])
        cv2.circle(image, (round(at[0]), round(at[1])), int(min(height, width) // 9), colour, -1, cv2.LINE_AA)
    noise = rng.normal(0, 6, image.shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1.0) + noise, 0, 255).astype(np.uint8)


class Project:
    """An artifacts/ tree as the stages make it, up to the heads."""

    def __init__(
        self,
        folder: Path,
        model: Path,
        trained: bool = True,
        reduction: ReduceParams | None = None,
        learned: bool = False,
    ) -> None:
        self.root, photos = folder / "artifacts", folder / "photos"
        photos.mkdir(parents=True)
        names = [f"{n}.png" for n in range(9)]
        for n, name in enumerate(names):
            cv2.imwrite(str(photos / name), photograph(n)[:, :, ::-1])
        self.photographs = [decode(photos / name) for name in names]
        index = pd.DataFrame({"image": names, "split": ["train"] * 6 + ["test"] * 3, "status": "ok"})
        boxes, _ = roi.locate(photos, index, [Full(FullParams(), roi.Context(photos, photos))], ROI.max_missing)
        write_table(self.root / "roi/boxes.csv", boxes)
        self.boxes = read_boxes(self.root / "roi/boxes.csv")
        write_crops(self.root / "roi/crops.zarr", photos, self.boxes, ROI.margin, ROI.crop)
        cut = Crops(self.root / "roi/crops.zarr")
        shutil.copytree(model, self.root / "backbone")
        reader = Extractor(backbone.load(self.root / "backbone", "float32", trained), READOUT, 0)
        kept = StoreParams(trained, "features", BANK, False)
        path, backbone_folder = self.root / "features/trained.zarr", self.root / "backbone"
        extract.fill(path, reader, cut, self.boxes, kept, reduction, 0, WARPS, backbone_folder)
        made: Model = FrozenStart(START).make(Site(self.views(), cut, 0, folder / "state.pt", "frozen")).model
        if learned:
            made = self.learn(made, FeatureStore(path))
        self.keep(made, "frozen", "features/trained")

    def views(self) -> StoredViews:
        views, _ = open_views(Origin("features/trained", "", None, 0), GRID, self.boxes, root=self.root)
        assert isinstance(views, StoredViews)
        return views

    def keep(self, model: Model, name: str, reads: str) -> None:
        made_of = FeatureStore(self.root / f"{reads}.zarr").digest
        save_model(model, self.root / "rounds" / name, Origin(reads, made_of, None, 0))

    def learn(self, base: Model, store: FeatureStore) -> Heads:
        """A model as a round leaves it: random, with labels and a history beside it."""
        assert isinstance(base, Frozen)
        channels = [store.read(np.arange(1))[name].shape[1] for name in base.names]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Heads(base, Aggregator(base.names, channels, 8, 16, 4, GRID), 16, "convolution")
            for one in model.parameters():
                torch.nn.init.normal_(one, std=0.3)
        model.fit_scale([store.read(np.arange(6))])
        (self.root / "rounds/frozen").mkdir(parents=True)
        (self.root / "rounds/frozen/labels.h5").touch()
        (self.root / "rounds/frozen/training.csv").touch()
        return model.eval()

    def freeze_trunk(self) -> FeatureStore:
        """The store that the trunk of the only model has filled; `resting` is the start that reads it."""
        path = self.root / "features/resting.zarr"
        model = aggregated.frozen_trunk(load_model(self.root / "rounds/frozen"), "frozen")
        weights = sha256(self.root / "rounds/frozen" / WEIGHTS)
        aggregated.fill(path, FeatureStore(self.root / "features/trained.zarr"), model, weights, "resting")
        self.keep(model, "resting", "features/resting")
        return FeatureStore(path)

    def discover(
        self, name: str = "zeroshot", count: int = COUNT, start: str = "frozen"
    ) -> tuple[Landmarks, Predictions, Path]:
        """Landmarks, predictions and the packed detector of one row."""
        opened, one = open_model(start, lambda size: WARPS, self.root), method(name)
        row = RowParams(opened.origin.reads, start, name, count)
        found = one.discover(Task(opened.source, opened.views.rows, count, random.rng(0, "discover")))
        predictions = predict(one, found.landmarks, opened.source, opened.boxes)
        out, block = self.root / f"detectors/{name}", build(methods.load(name).Cluster, BLOCKS[name], name)
        detector.pack(out, row, block, found.landmarks, ROI, {"full": FullParams()}, self.root)
        return found.landmarks, predictions, out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, pixel_folder: Path) -> Project:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULD_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        patch.setenv("ULD_DEVICE", "cpu")
        return Project(tmp_path_factory.mktemp("project"), pixel_folder)


@pytest.fixture(scope="module")
def zeroshot(project: Project) -> tuple[Landmarks, Predictions, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULD_DEVICE", "cpu")
        return project.discover()


def same(detected: detector.Detected, predictions: Predictions, rows: np.ndarray) -> None:
    found, want = detected.landmarks, predictions.found.take(rows)
    np.testing.assert_allclose(found.dense_xy, want.dense_xy, atol=0.02)
    np.testing.assert_allclose(found.dense_score, want.dense_score, atol=1e-3)
    np.testing.assert_array_equal(np.isnan(found.xy), np.isnan(want.xy))
    np.testing.assert_allclose(found.xy, want.xy, atol=0.02)
    np.testing.assert_allclose(found.score, want.score, atol=1e-3)


# --- over the data set ---


def test_predictions_are_whole(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    predictions = zeroshot[1]
    found = predictions.found
    assert found.xy.shape == (9, COUNT, 2)
    assert predictions.images.tolist() == project.boxes["image"].tolist()
    assert predictions.split.tolist() == ["train"] * 6 + ["test"] * 3
    assert predictions.warped.rows.tolist() == [6, 7, 8] and predictions.warped.xy.shape == (3, 1, COUNT, 2)
    assert np.isfinite(found.dense_xy).all() and np.isfinite(predictions.warped.xy).all()
    sizes = np.array([image.shape[1::-1] for image in project.photographs])[:, None]
    # within the photographs, but for the half cell that refinement may add
    slack = sizes.max(axis=2, keepdims=True) * 1.2 / GRID
    assert ((found.dense_xy > -0.5 - slack) & (found.dense_xy < sizes - 0.5 + slack)).all()
    assert np.isfinite(found.xy).any()


def test_a_warped_view_is_mapped_back(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    """What the network sees in the crop upside down, found by hand: the photograph turned, detected, turned back."""
    some = [project.photographs[row] for row in (6, 7, 8)]
    found = Detector.load(zeroshot[2]).detect([image[::-1, ::-1].copy() for image in some]).landmarks
    corner = np.array([image.shape[1::-1] for image in some])[:, None] - 1
    apart = np.abs(zeroshot[1].warped.xy[:, 0] - (corner - found.dense_xy)).max(axis=2)
    assert np.median(apart) < 0.05
    assert (
        apart < 0.5
    ).mean() > 0.7  # of twelve; cutting is not symmetric to the last bit: a near tie may fall otherwise


def test_the_mirrored_view_is_mapped_back(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    """What the network sees in the mirrored crop, found by hand: the photograph mirrored, detected, mirrored back."""
    opened = Detector.load(zeroshot[2])
    found = opened.detect([image[:, ::-1].copy() for image in project.photographs]).landmarks
    width = np.array([image.shape[1] for image in project.photographs])[:, None]
    back = found.dense_xy * [-1, 1] + np.stack([width - 1, 0 * width], axis=2)
    source, rows = open_model("frozen", root=project.root).source, np.arange(6)  # training images have this view
    flip = source.views.flips[1]
    seen = method("zeroshot").match(source, zeroshot[0], rows, flip)
    apart = np.abs(source.to_image(rows, seen, flip) - back[rows]).max(axis=2)
    assert np.median(apart) < 0.05
    assert (apart < 0.5).mean() > 0.85  # cutting is not mirror-symmetric to the last bit: a near tie may fall otherwise


def test_the_batch_size_does_not_show(
    project: Project, zeroshot: tuple[Landmarks, Predictions, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULD_BATCH", "2")
    opened = open_model("frozen", root=project.root)
    again = predict(method("zeroshot"), zeroshot[0], opened.source, opened.boxes)
    np.testing.assert_allclose(again.warped.xy, zeroshot[1].warped.xy, atol=1e-3)
    np.testing.assert_allclose(again.found.dense_xy, zeroshot[1].found.dense_xy, atol=1e-3)
    np.testing.assert_allclose(again.found.score, zeroshot[1].found.score, atol=1e-5)


def test_what_a_round_trains_on(project: Project) -> None:
    opened = open_model("frozen", root=project.root)
    store = FeatureStore(project.root / "features/trained.zarr")
    assert opened.origin == Origin("features/trained", store.digest, None, 0)
    assert opened.views.rows.tolist() == list(range(6))  # the training images
    assert opened.views.frames.grid == opened.model.grid == GRID
    assert [view.flipped for view in opened.views.flips] == [False, True]
    flipped, names = np.array([True, False]), opened.model.maps_read()
    batch = opened.views.draw(np.array([4, 1]), flipped, np.random.default_rng(0), names)
    assert isinstance(batch.inputs, dict) and list(batch.inputs) == names
    for name, value in batch.inputs.items():  # of each flip there is one view
        assert torch.equal(value[0].cpu(), store.read(np.array([4]), 1)[name][0])
        assert torch.equal(value[1].cpu(), store.read(np.array([1]), 0)[name][0])


def test_labels_of_the_last_round(project: Project, tmp_path: Path) -> None:
    assert last_labels("frozen", project.root) is None
    number = np.arange(3)
    labels = Labels(number, number < 0, number, np.ones((3, 2), np.float32), np.ones(3, np.float32), number > 0, 3)
    write_labels(tmp_path / "rounds/duld-1/labels.h5", labels)
    found = last_labels("duld-1", tmp_path)
    assert found is not None
    assert found.image.tolist() == [0, 1, 2]


# --- the bundle ---


def test_a_detector_finds_what_the_pipeline_found(
    project: Project, zeroshot: tuple[Landmarks, Predictions, Path]
) -> None:
    _, predictions, folder = zeroshot
    opened = Detector.load(folder)
    assert opened.count == COUNT
    found = opened.detect(project.photographs)
    same(found, predictions, np.arange(9))
    # the same batch: nearly the same bits
    np.testing.assert_allclose(found.landmarks.dense_xy, predictions.found.dense_xy, atol=5e-5)
    np.testing.assert_allclose(found.boxes, project.boxes[["x1", "y1", "x2", "y2"]])


def test_in_any_order_and_company(
    project: Project, zeroshot: tuple[Landmarks, Predictions, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Detector.load(str(zeroshot[2]))
    monkeypatch.setenv("ULD_BATCH", "2")
    rows = np.array([7, 2, 2, 0, 8])
    same(opened.detect([project.photographs[row] for row in rows]), zeroshot[1], rows)


def test_a_bundle_stands_on_its_own(
    project: Project, zeroshot: tuple[Landmarks, Predictions, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(zeroshot[2], tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    same(Detector.load(moved).detect(project.photographs[:1]), zeroshot[1], np.array([0]))


def test_packing_twice_gives_the_same_bytes(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    def content() -> dict[str, bytes]:
        return {str(p.relative_to(zeroshot[2])): p.read_bytes() for p in zeroshot[2].rglob("*") if p.is_file()}

    before = content()
    project.discover()
    assert content() == before
    assert str(project.root) not in before["detector.json"].decode()


def test_no_box_gives_no_landmarks(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    class Blind(Full):
        def detect(self, images: list[np.ndarray], ids: list[str]) -> list[roi.Box | None]:
            return [
                None if name == "image 1" else box for box, name in zip(super().detect(images, ids), ids, strict=True)
            ]

    opened = Detector.load(zeroshot[2])
    opened._providers = [Blind(FullParams(), roi.Context(Path(), Path()))]
    detected = opened.detect(project.photographs[:3])
    found: Found = detected.landmarks
    for value in (found.xy, found.dense_xy, found.score, found.dense_score, detected.boxes):
        assert np.isnan(value[1]).all()
    assert np.isfinite(found.dense_xy[[0, 2]]).all()
    np.testing.assert_allclose(found.dense_xy[[0, 2]], zeroshot[1].found.dense_xy[[0, 2]], atol=0.02)
    nothing = opened.detect([project.photographs[0]], ["image 1"]).landmarks
    assert np.isnan(nothing.dense_xy).all()
    assert nothing.dense_xy.shape == (1, COUNT, 2)
    assert opened.detect([]).landmarks.dense_xy.shape == (0, COUNT, 2)


def test_boxes_of_the_callers_own(project: Project, zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    """Landmarks move with what is shown: a photograph padded at its left and top, the box with it."""
    image = project.photographs[4]
    padded = np.pad(image, ((7, 0), (11, 0), (0, 0)), mode="reflect")
    box = np.array([[-0.5, -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5]])
    opened = Detector.load(zeroshot[2])
    plain = opened.detect_in([image], box)
    moved = opened.detect_in([padded], box + np.array([11, 7, 11, 7]))
    same(plain, zeroshot[1], np.array([4]))
    apart = moved.landmarks.dense_xy - plain.landmarks.dense_xy
    np.testing.assert_allclose(apart, np.broadcast_to([11, 7], apart.shape), atol=0.5)  # another phase of shrinking


def test_a_row_without_landmarks(project: Project) -> None:
    _, predictions, folder = project.discover("mean_shape", 0)
    assert predictions.found.xy.shape == (9, 0, 2)
    assert predictions.warped.xy.shape == (3, 1, 0, 2)
    write_predictions(project.root / "predictions/mean_shape.h5", predictions)
    found = Detector.load(folder).detect(project.photographs[:2]).landmarks
    assert found.dense_xy.shape == (2, 0, 2)
    assert found.score.shape == (2, 0)


@pytest.mark.parametrize("kind", ["untrained", "reduced", "pinned"])
def test_other_kinds_of_features(
    kind: str, tmp_path: Path, pixel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The untrained network, stored principal components, and a model that stays where it is."""
    model = pixel_folder
    if kind == "pinned":
        model = tmp_path / "reference"
        model.mkdir()
        block = pinned.PinnedParams("pinned", str(pixel_folder), None, None, 32)
        (model / "reference.json").write_text(json.dumps(pinned.pin(block)))
    reduction = ReduceParams(6, 4) if kind == "reduced" else None
    project = Project(tmp_path, model, kind != "untrained", reduction)
    _, predictions, folder = project.discover()
    same(Detector.load(folder, kind == "pinned").detect(project.photographs), predictions, np.arange(9))
    assert bool(list(folder.glob("backbone/unet/*.safetensors"))) == (kind != "pinned")
    if kind == "pinned":
        only_what_is_named(folder, str(pixel_folder), monkeypatch)


def only_what_is_named(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle opens nothing outside itself that neither the user nor the project names."""
    project = folder.parent / "user"
    project.mkdir()
    monkeypatch.chdir(project)
    with pytest.raises(
        ArtifactError, match=rf"would open what lies outside it .* does not name: {path}.*--open-outside"
    ):
        Detector.load(folder)
    (project / "params.yaml").write_text(json.dumps({"backbones": {"mine": {"path": path}}}))
    assert Detector.load(folder).count == COUNT


def test_a_trained_model_travels_without_what_it_learned_from(tmp_path: Path, pixel_folder: Path) -> None:
    """Its detections on a photograph are those of the pipeline: heat maps count, not only descriptors."""
    project = Project(tmp_path, pixel_folder, learned=True)
    _, predictions, folder = project.discover("duld")
    assert sorted(path.name for path in (folder / "model").iterdir()) == ["model.json", "model.safetensors"]
    seen = np.isfinite(predictions.found.xy[..., 0])
    assert 0.2 < seen.mean() < 1, "the test needs landmarks that are detected in some images only"
    opened = Detector.load(folder)
    same(opened.detect(project.photographs), predictions, np.arange(9))
    apart = np.linalg.norm(predictions.found.xy - predictions.found.dense_xy, axis=2)[seen]
    assert (apart > 1).any(), "detections and dense matches are two things"
    assert isinstance(opened._model, Heads)
    torch.nn.init.constant_(list(opened._model.detector_head.parameters())[-1], -50)
    assert np.isnan(opened.detect(project.photographs[:2]).landmarks.xy).all()


@pytest.mark.parametrize("reduction", [None, ReduceParams(6, 4)])
def test_a_detector_of_a_frozen_trunk(
    tmp_path: Path, pixel_folder: Path, reduction: ReduceParams | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its store says is what the features say, and a photograph gets it from the network."""
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path / "scratch"))
    project = Project(tmp_path, pixel_folder, reduction=reduction, learned=True)
    made = project.freeze_trunk()
    assert made.spec["keep"] == "aggregated" and made.names == ["base", "aggregated"]
    whole = project.discover("duld")[1].found
    _, predictions, folder = project.discover("duld", start="resting")
    same(Detector.load(folder).detect(project.photographs), predictions, np.arange(9))
    found = predictions.found
    np.testing.assert_allclose(found.dense_xy, whole.dense_xy, atol=0.1)
    np.testing.assert_allclose(found.score, whole.score, atol=5e-3)
    assert (np.abs(found.xy - whole.xy)[np.isfinite(whole.xy)] < 0.02).mean() > 0.95  # but for near ties
    opened = open_model("resting", root=project.root)
    rng, names = np.random.default_rng(0), opened.model.maps_read()
    batch = opened.views.draw(np.array([4, 1]), np.array([True, False]), rng, names)
    assert isinstance(batch.inputs, dict)
    assert {name: value.shape for name, value in batch.inputs.items()} == {
        "base": (2, 8, GRID, GRID),
        "aggregated": (2, 16, GRID, GRID),
    }


def test_a_model_that_another_store_does_not_fit(
    tmp_path: Path, pixel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps of a trunk are those of one training: the start that reads them knows which."""
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path / "scratch"))
    project = Project(tmp_path, pixel_folder, learned=True)
    project.freeze_trunk()
    before = load_model(project.root / "rounds/resting")
    model = load_model(project.root / "rounds/frozen")
    assert isinstance(model, Heads)
    torch.nn.init.zeros_(model.aggregate.bottleneck_layers[0][0].conv3.weight)
    project.keep(model, "frozen", "features/trained")  # the start is made anew
    shutil.rmtree(project.root / "features/resting.zarr")
    project.freeze_trunk()
    other = Origin("features/resting", "of before", None, 0)
    save_model(before, project.root / "rounds/other", other)
    with pytest.raises(ArtifactError, match="other was made for another features/resting: run `dvc repro bootstrap`"):
        open_model("other", root=project.root)
    for wrong in (model.base, before):
        with pytest.raises(ULDError, match="aggregated: 'base' has no aggregator to freeze: name a start of model hea"):
            aggregated.frozen_trunk(wrong, "base")


def test_a_detector_of_a_model_that_reads_images(project: Project) -> None:
    """It needs no network beside it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Encoder(CROP, GRID, [8, 8], 8, 8, 4)
        for one in model.parameters():
            torch.nn.init.normal_(one, std=0.3)
    made_of = Crops(project.root / "roi/crops.zarr").fingerprint()
    save_model(model, project.root / "rounds/pixels", Origin("roi/crops", made_of, VIEWS, 0))
    _, predictions, folder = project.discover("duld", start="pixels")
    assert not (folder / "backbone").exists()
    assert predictions.warped.xy.shape == (3, 1, COUNT, 2) and np.isfinite(predictions.warped.xy).all()
    same(Detector.load(folder).detect(project.photographs), predictions, np.arange(9))
    shutil.rmtree(folder)


# --- what is refused ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


HARMS: list[Callable[[Path], object]] = [
    Path.unlink,
    cut,
    flip,
    lambda p: p.write_bytes(b""),
    lambda p: p.write_bytes(b"\x80\x04."),
]
FILES = [
    "detector.json",
    "sha256.txt",
    "landmarks.h5",
    "readout.json",
    "model/model.json",
    "model/model.safetensors",
    "backbone/uld.json",
    "backbone/unet/config.json",
    "backbone/unet/diffusion_pytorch_model.safetensors",
    "backbone/scheduler/scheduler_config.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", HARMS, ids=["missing", "cut", "flipped", "empty", "garbage"])
def test_any_damage_is_told_with_the_remedy(
    zeroshot: tuple[Landmarks, Predictions, Path], tmp_path: Path, name: str, harm: Callable[[Path], object]
) -> None:
    folder = shutil.copytree(zeroshot[2], tmp_path / "zeroshot")
    harm(folder / name)
    with pytest.raises(ArtifactError, match=r"dvc repro (-f )?predict"):
        Detector.load(folder)


def test_every_file_of_a_bundle_is_harmed_above(zeroshot: tuple[Landmarks, Predictions, Path]) -> None:
    assert {p.relative_to(zeroshot[2]).as_posix() for p in zeroshot[2].rglob("*") if p.is_file()} == set(FILES)


def test_a_file_that_was_not_packed_is_told(zeroshot: tuple[Landmarks, Predictions, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(zeroshot[2], tmp_path / "zeroshot")
    (folder / "reduction.safetensors").touch()
    with pytest.raises(ArtifactError, match=r"reduction.safetensors does not belong there: remove it, or pack it anew"):
        Detector.load(folder)
    (folder / "reduction.safetensors").rename(folder / ".DS_Store")
    assert Detector.load(folder).count == COUNT


WRONG: list[tuple[str, str, Any, str]] = [
    ("detector.json", "version", 2, "packed by another version of uld"),
    ("detector.json", "colour", 1, "detector.colour: unknown key"),
    (
        "detector.json",
        "roi",
        {"providers": ["full"], "margin": "0.1", "crop": 32, "border": 0, "max_missing": 0},
        "roi.margin: ",
    ),
    (
        "detector.json",
        "roi",
        {"providers": ["full"], "margin": 0.1, "crop": 10**9, "border": 0, "max_missing": 0},
        "roi.crop: ",
    ),
    ("detector.json", "method", "magic", "magic"),
    ("detector.json", "params", KMEANS, "params.refine: key is missing"),
    ("detector.json", "roi_providers", {"full": {"size": 3}}, "roi_providers.full.size: unknown key"),
    ("model/model.json", "colour", 1, "model.colour: unknown key"),
    ("model/model.json", "steps", "many", "model.steps: "),
    ("model/model.json", "model", "magic", "there is no model 'magic'"),
    ("model/model.json", "args.grid", "16", "args.grid: "),
    ("model/model.json", "args.grid", 10**9, "args.grid: 1000000000 is beyond"),
    ("model/model.json", "args.colour", 1, "args.colour: unknown key"),
    ("model/model.json", "args.dims", 9, "another model than model.safetensors holds"),
    ("readout.json", "seed", -1, "readout.seed: "),
    ("readout.json", "readout", {}, "readout.readout.layers: key is missing"),
]


@pytest.mark.parametrize(("name", "key", "value", "said"), WRONG)
def test_a_wrong_key_is_named(
    zeroshot: tuple[Landmarks, Predictions, Path], tmp_path: Path, name: str, key: str, value: Any, said: str
) -> None:
    """Even in a bundle whose checksums are right."""
    folder = shutil.copytree(zeroshot[2], tmp_path / "zeroshot")
    tree = node = json.loads((folder / name).read_text())
    *above, last = key.split(".")
    for part in above:
        node = node[part]
    node[last] = value
    (folder / name).write_text(json.dumps(tree))
    sums.write_sums(folder)
    with pytest.raises(ArtifactError, match=f"(?s){said}.*`dvc repro"):
        Detector.load(folder)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    zeroshot: tuple[Landmarks, Predictions, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sums, "sha256", closed)
    with pytest.raises(ArtifactError, match=r"may not be read: give yourself the right to"):
        Detector.load(zeroshot[2])


def test_a_full_disk_leaves_no_bundle(
    project: Project, zeroshot: tuple[Landmarks, Predictions, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in zeroshot[2].parent.rglob("*") if path.is_file()}
    monkeypatch.setattr(sums, "write_sums", full)
    with pytest.raises(OSError, match="No space"):
        project.discover()
    assert {path: path.read_bytes() for path in zeroshot[2].parent.rglob("*") if path.is_file()} == before


def test_features_of_other_crops_are_refused(project: Project, tmp_path: Path) -> None:
    root = shutil.copytree(project.root, tmp_path / "artifacts")
    write_crops(root / "roi/crops.zarr", project.root.parent / "photos", project.boxes, 0.3, CROP)
    with pytest.raises(
        ArtifactError, match=r"trained.zarr does not fit \(crops: store has .* run `dvc repro features`"
    ):
        open_model("frozen", root=root)
