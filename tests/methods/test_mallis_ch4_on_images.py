"""Chapter 4 of Mallis end to end on small photographs: ORB's points, two rounds of one heat map, two of K."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from tests.methods.conftest import task
from tests.methods.test_mallis_ch4 import BLOCK as POINTS
from tests.methods.test_mallis_ch4 import GENERIC, RMSPROP
from tests.methods.test_mallis_ch4 import TRAIN as POINTS_TRAIN
from tests.methods.test_mallis_ch4_detector import BLOCK as DETECTOR
from tests.methods.test_mallis_ch4_detector import TEMPLATE
from tests.methods.test_mallis_ch4_detector import TRAIN as DETECTOR_TRAIN
from tests.methods.test_on_images import VIEWS
from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.artifacts.models import Origin, load_model, save_model
from uld.base.params import build
from uld.geometry import coords
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops
from uld.methods import load
from uld.methods.base import Labelled, Method, Task, Training
from uld.models.base import Model
from uld.models.hourglass import Hourglass
from uld.sources.augmentation import PixelViewParams
from uld.sources.pixel_views import PixelViews
from uld.sources.source import Source

SIZE, GRID, COUNT = 32, 16, 4
DETECT = {"radius": 1, "threshold": 0.2, "min_points": 5, "max_points": 8}
DISTIL = {"turns": [0, 10], "scales": [1], "mirror": True}
TRAINS = {
    "mallis_ch4": POINTS_TRAIN | {"steps": 20, "optimiser": RMSPROP},
    "mallis_ch4_detector": DETECTOR_TRAIN | {"steps": 20, "fresh": True},
}


class Done(NamedTuple):
    """A round: its landmarks, labels and training, and the model after it."""

    landmarks: Landmarks
    labelled: Labelled
    history: pd.DataFrame
    model: Model


def method(name: str, block: dict[str, Any]) -> Method:
    kind = load(name)
    return kind(build(kind.Cluster, block, f"methods.{name}.cluster"))


DETECTS = method(
    "mallis_ch4_detector", DETECTOR | {"detect": DETECT, "template": TEMPLATE | {"near": 3.0, "complete": True}}
)


@pytest.fixture(scope="module")
def views(photographs: tuple[Path, pd.DataFrame], write_crops: Callable[[int], Crops]) -> PixelViews:
    crops, boxes = write_crops(SIZE), photographs[1]
    frames = Frames(crops.affine, corners(boxes), crops.inside, SIZE, GRID)
    rows = np.flatnonzero(boxes["split"] == "train")
    turn = np.stack([coords.view(SIZE, rotate=12)])
    return PixelViews(crops.images, crops.inside, frames, rows, build(PixelViewParams, VIEWS, "views"), turn)


@pytest.fixture(scope="module")
def rounds(views: PixelViews, tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    folder = tmp_path_factory.mktemp("states")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Model = Hourglass(SIZE, GRID, 16, 2, 8, 2)
    first = POINTS | {"points": GENERIC, "detect": DETECT}
    lines = [method("mallis_ch4", first), method("mallis_ch4", first | {"distil": DISTIL}), DETECTS, DETECTS]
    done: list[Done] = []
    for number, one in enumerate(lines):
        name = "mallis_ch4" if number < 2 else "mallis_ch4_detector"
        previous = done[-1].labelled.labels if done else None
        given = Task(Source(model.eval(), views), views.rows, COUNT, np.random.default_rng(number), previous)
        landmarks = one.discover(given).landmarks
        labelled = one.label(given, landmarks)
        training = Training(labelled.labels, views, lambda step, n=number: np.random.default_rng([n, step]),
                            folder / f"{number}.pt", f"round {number}")  # fmt: skip
        kind = load(name)
        model, history = kind.train(model, training, build(kind.Train, TRAINS[name], f"methods.{name}.train"))
        save_model(model, folder / str(number), Origin("roi/crops", "made of", VIEWS, 25))
        done.append(Done(landmarks, labelled, history, load_model(folder / str(number))))
    return done


def test_each_round_learns_its_labels(rounds: list[Done], views: PixelViews) -> None:
    for done in rounds:
        labels = done.labelled.labels
        assert set(labels.flipped) == {False, True} and np.isin(labels.image, views.rows).all()
        assert done.history["loss"][-5:].mean() < done.history["loss"][:5].mean()
    assert [done.model.channels for done in rounds] == [1, 1, COUNT, COUNT]
    assert [done.labelled.labels.count for done in rounds][2:] == [COUNT] * 2


def test_the_template_goes_from_round_to_round(rounds: list[Done]) -> None:
    known = [done.landmarks.known_template() for done in rounds[2:]]
    assert known[0].shape == (COUNT, 2)
    np.testing.assert_array_equal(known[0], known[1])


def test_finds_landmarks_in_photographs_it_has_not_seen(rounds: list[Done], views: PixelViews) -> None:
    rows, source = np.array([5, 6]), Source(rounds[-1].model, views)
    given = task(source, views.rows, COUNT, rounds[-1].labelled.labels)
    found: Found = DETECTS.find(source, DETECTS.discover(given).landmarks, rows, views.plain)
    at = source.to_image(rows, found.xy, views.plain)
    assert at.shape == (2, COUNT, 2)
    assert ((at > [5, 3]) & (at < [38, 36])).all()  # in the object boxes, but for half a cell
