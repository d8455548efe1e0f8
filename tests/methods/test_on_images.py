"""A model that reads images, end to end on small photographs: bootstrap by SiLK, cluster, label, train, find."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.methods.conftest import task
from tests.training.adam import ADAM
from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.artifacts.models import Origin, load_model, save_model
from uld.base.params import build
from uld.geometry import coords
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops
from uld.methods import load
from uld.methods.base import Labelled, Method, Training
from uld.models.base import Model
from uld.sources import checks
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.sources.source import Source
from uld.starts.base import Site
from uld.starts.encoder import EncoderStart, EncoderStartParams

SIZE, GRID, COUNT = 32, 16, 4
VIEWS = {
    "warp": {"mirror": True, "rotate": 20, "scale": 0.15, "shift": 0.05, "bend": {"displacement": 0.05, "grid": 3}},
    "light": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0, "gamma": 0, "noise": 0.01,
              "blur": {"sigma": 0, "probability": 0}, "cutout": {"side": 0.2, "probability": 0.3}},
}  # fmt: skip
START = {
    "model": "encoder",
    "reads": "roi/crops",
    "network": {"grid": GRID, "widths": [16, 16, 16], "dims": 16, "hidden": 16, "groups": 4},
    "views": VIEWS,
    "train": {"keypoints": {"by": "silk", "tolerance": 1}, "outliers": 0, "sigma": 1.0, "steps": 80, "pairs": 4,
              "lr": 5e-3, "descriptor_lr": 5e-3, "optimiser": ADAM, "contrast": None, "temperature": 0.05,
              "flips": "both"},
}  # fmt: skip
DETECT = {"radius": 2, "threshold": 0.2, "min_points": 6, "max_points": 10, "heat_weight": 0.0}
CLUSTER = {"pool": "pixels", "points": 60, "max_points": 10_000, "restarts": 3, "iterations": 20, "over_clustering": 2,
           "recentre": 2, "images": 8, "detect": DETECT, "label": {"max_distance": None, "dense": 0.0}}  # fmt: skip
TRAIN = {"steps": 120, "pairs": 4, "lr": 5e-3, "descriptor_lr": 1e-3, "optimiser": ADAM, "other_image": 0.5,
         "sigma": 1.0, "margin": 1.0,
         "negatives": 16, "min_distance": 3.0, "descriptor_weight": 1.0}  # fmt: skip


class Round(NamedTuple):
    """The encoder before its start is trained, after that, and after a round of D-ULD; and what was found between."""

    views: PixelViews
    untrained: Model
    start: Model
    bootstrapped: pd.DataFrame
    landmarks: Landmarks
    labelled: Labelled
    trained: Model
    history: pd.DataFrame


def duld() -> Method:
    kind = load("duld")
    return kind(build(kind.Cluster, CLUSTER, "methods.duld.cluster"))


@pytest.fixture(scope="module")
def whole(
    photographs: tuple[Path, pd.DataFrame],
    write_crops: Callable[[int], Crops],
    tmp_path_factory: pytest.TempPathFactory,
) -> Round:
    crops, boxes, folder = write_crops(SIZE), photographs[1], tmp_path_factory.mktemp("states")
    frames = Frames(crops.affine, corners(boxes), crops.inside, SIZE, GRID)
    rows = np.flatnonzero(boxes["split"] == "train")
    warps = np.stack([coords.view(SIZE, rotate=12), coords.view(SIZE, scale=1.1)])
    views = PixelViews(crops.images, crops.inside, frames, rows, build(PixelViewParams, VIEWS, "views"), warps)

    def start(steps: int) -> Any:
        line = START | {"train": START["train"] | {"steps": steps}}  # type: ignore[operator]
        made = EncoderStart(build(EncoderStartParams, line, "starts.pixels"))
        return made.make(Site(views, crops, 0, folder / "start.pt", "pixels"))

    untrained, made, kind = start(0).model, start(80), load("duld")
    save_model(made.model, folder / "start", Origin("roi/crops", "made of", VIEWS, 80))
    given = task(Source(made.model, views), rows, COUNT)
    landmarks = duld().discover(given).landmarks
    labelled = duld().label(given, landmarks)
    training = Training(
        labelled.labels, views, lambda step: np.random.default_rng([0, step]), folder / "round.pt", "round pixels-1"
    )
    block = build(kind.Train, TRAIN, "methods.duld.train")
    trained, history = kind.train(made.model, training, block)
    kept = load_model(folder / "start")  # training changes the model that it is given
    return Round(views, untrained, kept, made.history, landmarks, labelled, trained, history)


def self_match(model: Model, views: PixelViews) -> float:
    rows = np.arange(7)  # also the photographs that it has not seen
    return checks.measure(Source(model, views), rows, np.random.default_rng(0))["self_match"]


def find(whole: Round, model: Model, rows: np.ndarray) -> Found:
    return duld().find(Source(model, whole.views), whole.landmarks, rows, whole.views.plain)


def test_the_start_learns_to_find_points_again(whole: Round) -> None:
    before, after = self_match(whole.untrained, whole.views), self_match(whole.start, whole.views)
    assert after > before + 0.1, (before, after)
    first, last = whole.bootstrapped[:10].mean(), whole.bootstrapped[-10:].mean()
    assert last["nll"] < 0.8 * first["nll"] and last["round_trips"] > first["round_trips"]


def test_labels_are_in_both_flips_of_the_training_images(whole: Round) -> None:
    labels = whole.labelled.labels
    assert set(labels.image) == set(whole.views.rows) and set(labels.flipped) == {False, True}
    assert labels.count == COUNT and len(labels.image) == 2 * COUNT * len(whole.views.rows)
    assert whole.landmarks.centroids.shape == (COUNT, 16)


def test_the_round_teaches_the_detector_and_keeps_the_descriptors_apart(whole: Round) -> None:
    first, last = whole.history[:8].mean(), whole.history[-8:].mean()
    assert last["loss"] < 0.8 * first["loss"] and last["detector"] < first["detector"]
    assert last["descriptor"] < first["descriptor"]
    assert self_match(whole.trained, whole.views) > self_match(whole.untrained, whole.views)


def test_the_round_detects_what_it_was_taught(whole: Round) -> None:
    """In training images, where labels say what is right."""
    rows = whole.views.rows
    labels = whole.labelled.labels
    plain = ~labels.flipped
    want = np.full((len(rows), COUNT, 2), np.nan, np.float32)
    want[np.searchsorted(rows, labels.image[plain]), labels.label[plain]] = labels.xy[plain]

    def height(model: Model) -> float:
        """Heat at the labels over that of the whole map."""
        source = Source(model, whole.views)
        heat = source.maps(rows, whole.views.plain).heat[:, 0].detach()
        x, y = source.to_cells(rows, want, whole.views.plain).round().astype(int).clip(0, GRID - 1).transpose(2, 0, 1)
        return float(heat.numpy()[np.arange(len(rows))[:, None], y, x].mean() / heat.mean())

    assert height(whole.trained) > 3 * height(whole.start)


def test_finds_landmarks_in_photographs_it_has_not_seen(whole: Round) -> None:
    rows = np.array([5, 6])
    found = find(whole, whole.trained, rows)
    assert found.xy.shape == (2, COUNT, 2) and np.isfinite(found.dense_xy).all()
    source = Source(whole.trained, whole.views)
    at = source.to_image(rows, found.dense_xy, whole.views.plain)
    assert ((at > [5, 3]) & (at < [38, 36])).all()  # in the object boxes, but for half a cell
