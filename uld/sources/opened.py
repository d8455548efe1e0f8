"""Open a model of artifacts/rounds/ over the images that it reads."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from uld import sources
from uld.artifacts.boxes import read_boxes
from uld.artifacts.labels import Labels, read_labels
from uld.artifacts.models import Origin, load_model, read_origin
from uld.base import runtime
from uld.base.errors import ArtifactError
from uld.geometry.frames import Frames, Rows, corners
from uld.images.crops import Crops
from uld.models.base import Model
from uld.sources.source import Source
from uld.sources.views import TrainingViews, Warps

ROOT = Path("artifacts")


@dataclass(frozen=True)
class Opened:
    """A model on the device, its origin, the views that it reads, and boxes.csv."""

    model: Model
    origin: Origin
    views: TrainingViews
    boxes: pd.DataFrame

    @property
    def source(self) -> Source:
        """What the model says of all images."""
        return Source(self.model, self.views)


def open_model(start: str, warps: Warps | None = None, root: Path = ROOT, *, training: bool = False) -> Opened:
    """The model of a start or round.

    Args:
        warps: the evaluation's, of a model that reads images; a store of features holds them.
        training: whether the model is to be trained: what draws its views anew (`Origin.views`) is opened.

    Raises:
        ArtifactError: it is missing, or what it reads is missing or not what it was made for.
    """
    folder = root / "rounds" / start
    model, origin = load_model(folder).to(runtime.device()), read_origin(folder)
    boxes = read_boxes(root / "roi/boxes.csv")
    views, made_of = open_views(origin, model.grid, boxes, warps, root, training=training)
    if made_of != origin.made_of:
        raise ArtifactError(f"{folder} was made for another {origin.reads}: run `dvc repro bootstrap`.")
    return Opened(model, origin, views, boxes)


def open_views(
    origin: Origin,
    grid: int,
    boxes: pd.DataFrame,
    warps: Warps | None = None,
    root: Path = ROOT,
    *,
    training: bool = False,
) -> tuple[TrainingViews, str]:
    """The views that a model of `origin` reads, and their fingerprint.

    Args:
        grid: G of the model. boxes: boxes.csv. warps, training: see `open_model`.

    Raises:
        ArtifactError: a store is missing, or was made of other crops.
    """
    crops = Crops(root / "roi/crops.zarr")
    if len(crops) != len(boxes):
        raise ArtifactError(
            f"{root / 'roi'}: {len(crops)} crops do not fit {len(boxes)} boxes: run `dvc repro -f roi`."
        )
    frames = Frames(crops.affine, corners(boxes), crops.inside, crops.size, grid)
    module = sources.of(origin.reads, drawn=training and origin.views is not None)
    found: tuple[TrainingViews, str] = module.open_views(origin, crops, frames, training_rows(boxes), warps, root)
    return found


def training_rows(boxes: pd.DataFrame) -> Rows:
    """Rows of boxes.csv that are of the training split."""
    return np.flatnonzero(boxes["split"].to_numpy() == "train")


def last_labels(start: str, root: Path = ROOT) -> Labels | None:
    """The labels that a model was last trained on; None of a model that has not been through a round."""
    path = root / "rounds" / start / "labels.h5"
    return read_labels(path) if path.is_file() else None


def trained_more(origin: Origin, steps: int) -> Origin:
    """The origin of a model after more steps."""
    return replace(origin, steps=origin.steps + steps)
