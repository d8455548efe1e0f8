"""A discovered landmark detector: run it over the whole data set, pack it into a folder, use it on any photograph.

from uld.detector import Detector
detector = Detector.load("artifacts/detectors/zeroshot")
landmarks = detector.detect([image])            # image (H, W, 3) uint8 RGB
landmarks.dense_xy[0]                           # (K, 2) x, y in pixels of the photograph
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as closed

from uld import methods, models, roi
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_json, write_json
from uld.artifacts.labels import Labels, read_labels
from uld.artifacts.landmarks import Landmarks, read_landmarks, write_landmarks
from uld.artifacts.predictions import Predictions
from uld.base import runtime
from uld.base.errors import ArtifactError
from uld.base.params import CLOSED, build
from uld.diffusion import backbone as networks
from uld.diffusion import reduce
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.online import open_store
from uld.diffusion.store import FeatureStore
from uld.geometry import coords
from uld.images import Pixels
from uld.images.crops import Crops
from uld.images.cut import cut
from uld.methods.base import Found, Method
from uld.models import Head
from uld.models.heads import AGGREGATED
from uld.sources.source import GridSource, frames, from_store, live
from uld.sources.views import Bank

ABOUT = "detector.json"


@closed(frozen=True, config=CLOSED)
class RowParams:
    """A row of the results table: which features, which head it starts from, which step (method) makes K landmarks."""

    features: str
    start: str
    step: str
    landmarks: Annotated[int, Field(ge=0)] | None = None  # K; None: that of the rounds


@closed(frozen=True, config=CLOSED)
class RoundParams:
    """A round of self-training: which features, which model it starts from, which step (method) labels and trains."""

    features: str
    start: str
    step: str


@dataclass(frozen=True)
class Detected:
    """Landmarks of B photographs in their own pixels: xy (B, K, 2), NaN = not detected, and score (B, K).

    dense_xy, dense_score: the best match of every landmark in the ROI, detected or not.

    boxes (B, 4) are the object boxes used, NaN where none was found (all landmarks are NaN then).
    """

    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]
    boxes: NDArray[np.float64]

    @property
    def filled_xy(self) -> NDArray[np.float32]:
        """(B, K, 2): detections where there are some, the best match elsewhere."""
        return np.where(np.isfinite(self.xy), self.xy, self.dense_xy)

    @property
    def filled_score(self) -> NDArray[np.float32]:
        """(B, K): scores of `filled_xy`."""
        return np.where(np.isfinite(self.score), self.score, self.dense_score)


# --- over the data set, from cached features ---


def cached(features: str, start: str, root: Path = Path("artifacts")) -> tuple[pd.DataFrame, GridSource]:
    """boxes.csv and the descriptors of a model over all its images and views, from the store `features`."""
    boxes = read_boxes(root / "roi/boxes.csv")
    store = open_store(root / "features" / f"{features}.zarr")
    head = models.load(root / "rounds" / start, store.spec["backbone"]).to(runtime.device())
    return boxes, from_store(store, head, Crops(root / "roi/crops.zarr"), boxes)


def trainable(features: str, start: str, root: Path = Path("artifacts")) -> tuple[Head, Bank, str]:
    """A model, the view bank of the training images that it can be trained on, and the backbone's fingerprint."""
    boxes = read_boxes(root / "roi/boxes.csv")
    store = open_store(root / "features" / f"{features}.zarr")
    backbone = store.spec["backbone"]
    head = models.load(root / "rounds" / start, backbone).to(runtime.device())
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    place = frames(store, Crops(root / "roi/crops.zarr"), boxes, head.grid)
    return head, Bank(store, place, rows, head.reads(store)), backbone


def predict_all(method: Method, landmarks: Landmarks, source: GridSource, boxes: pd.DataFrame) -> Predictions:
    """Find the landmarks in every image and every view of the bank."""
    views, count = len(source.views), len(landmarks.centroids)
    xy, view_xy = _gap((len(boxes), count, 2)), _gap((len(boxes), views, count, 2))
    score, dense_score = _gap((len(boxes), count)), _gap((len(boxes), count))
    poses: list[Found] = []
    for first in range(0, len(boxes), runtime.batch_size()):
        rows = np.arange(first, min(first + runtime.batch_size(), len(boxes)))
        found = method.find(source, landmarks, rows)
        xy[rows], score[rows] = source.to_image(rows, found.xy), found.score
        view_xy[rows, 0], dense_score[rows] = source.to_image(rows, found.dense_xy), found.dense_score
        poses.append(found)
        for v in range(1, views):
            view_xy[rows, v] = source.to_image(rows, method.match(source, landmarks, rows, v), v)
    images, split = (boxes[key].to_numpy(dtype=object) for key in ("image", "split"))
    known = {
        name: np.concatenate([getattr(found, name) for found in poses])
        for name in ("pose", "pose_margin")
        if poses and getattr(poses[0], name) is not None
    }
    return Predictions(images, split, xy, score, view_xy[:, 0], dense_score, view_xy, source.mirrored, **known)


def last_labels(start: str, root: Path = Path("artifacts")) -> Labels | None:
    """The labels that a model was last trained on; None of a model that has not been through a round."""
    path = root / "rounds" / start / "labels.h5"
    return read_labels(path) if path.is_file() else None


# --- the bundle ---


def pack(
    out: Path,
    row: RowParams,
    block: Any,
    landmarks: Landmarks,
    crop: roi.RoiParams,
    providers: dict[str, Any],
    root: Path = Path("artifacts"),
) -> None:
    """Gather all that inference needs: a small backbone travels inside, a pinned one by path and hash."""
    store = FeatureStore(root / "features" / f"{row.features}.zarr")
    keys = ("layers", "timesteps", "policy", "inversion_steps", "dtype")
    about = {
        "step": row.step,
        "params": asdict(block),
        "roi": asdict(crop),
        "roi_providers": {name: asdict(settings) for name, settings in providers.items()},
        "readout": {key: store.spec[key] for key in keys},
        "seed": store.spec["seed"],
        "backbone": store.spec["backbone"],
        "at_rest": AGGREGATED in store.names,
    }
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "backbone", out / "backbone", dirs_exist_ok=True)
    (out / "head").mkdir(exist_ok=True)
    for name in ("head.json", "head.safetensors"):  # not what it was trained on
        shutil.copy(root / "rounds" / row.start / name, out / "head")
    if (store.path / reduce.FILE).is_file():
        shutil.copy(store.path / reduce.FILE, out / reduce.FILE)
    write_landmarks(out / "landmarks.h5", landmarks)
    write_json(out / ABOUT, about)


class Detector:
    """A packed detector, ready for photographs. Coordinates in, coordinates out: original pixels, (x, y)."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Use `Detector.load`."""
        kind = methods.load(about["step"])
        self._method = kind(build(kind.Params, about["params"], "params", str(folder / ABOUT)))
        self.landmarks = read_landmarks(folder / "landmarks.h5")
        self._roi = build(roi.RoiParams, about["roi"], "roi", str(folder / ABOUT))
        self._providers = _providers(about["roi_providers"], folder)
        readout = build(ReadoutParams, about["readout"], "readout", str(folder / ABOUT))
        trained = not about["backbone"].startswith("untrained-")
        model = networks.load(folder / "backbone", readout.dtype, trained)
        if model.fingerprint != about["backbone"]:
            raise ArtifactError(f"{folder}: its backbone is not the one it was made with: run `dvc repro predict`.")
        self._extractor = Extractor(model, readout, about["seed"])
        if runtime.compiles():
            self._extractor.compile_blocks()
        self._reduction, self._at_rest = reduce.load(folder), about.get("at_rest", False)  # older bundles do not say
        self._head = models.load(folder / "head", model.fingerprint).to(runtime.device())

    @classmethod
    def load(cls, folder: Path | str) -> "Detector":
        """Open an artifacts/detectors/<row>/ folder.

        Raises:
            ArtifactError: no detector there, or its backbone has changed. BackboneError: a pinned model is gone.
        """
        about = read_json(Path(folder) / ABOUT, "predict")
        return cls(Path(folder), about)

    @property
    def count(self) -> int:
        """K."""
        return len(self.landmarks.centroids)

    def detect(self, images: list[Pixels], ids: list[str] | None = None) -> Detected:
        """Landmarks of photographs (H, W, 3) uint8 RGB of any size."""
        found = roi.detect(self._providers, images, ids or [f"image {i}" for i in range(len(images))])
        boxes = np.array([one[0][:4] if one else (np.nan,) * 4 for one in found], dtype=np.float64).reshape(-1, 4)
        return self.detect_in(images, boxes)

    def detect_in(self, images: list[Pixels], boxes: NDArray[np.float64]) -> Detected:
        """The same in given object boxes (B, 4), x1, y1, x2, y2 as edges; a NaN box gives NaN landmarks."""
        points, scores = (len(images), self.count, 2), (len(images), self.count)
        out = Detected(_gap(points), _gap(scores), _gap(points), _gap(scores), boxes)
        good = np.flatnonzero(np.isfinite(boxes).all(1))
        if not len(good):
            return out
        affine = coords.crop(boxes[good], self._roi.margin, self._roi.crop)
        cuts = [cut(images[i], affine[n], self._roi.crop) for n, i in enumerate(good)]
        pixels, inside = (np.stack(part) for part in zip(*cuts, strict=True))
        source = live(self._extractor, self._reduction, self._head, pixels, inside, affine, boxes[good], self._at_rest)
        for first in range(0, len(good), runtime.batch_size()):
            rows = np.arange(first, min(first + runtime.batch_size(), len(good)))
            found = self._method.find(source, self.landmarks, rows)
            out.xy[good[rows]], out.score[good[rows]] = source.to_image(rows, found.xy), found.score
            out.dense_xy[good[rows]] = source.to_image(rows, found.dense_xy)
            out.dense_score[good[rows]] = found.dense_score
        return out


def _gap(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.full(shape, np.nan, np.float32)


def _providers(blocks: dict[str, Any], folder: Path) -> list[roi.Provider]:
    """The bundle's providers that work outside the data set; the whole photograph if none does."""
    general = [name for name in blocks if roi.kind(name).general] or ["full"]
    context = roi.Context(folder, folder)
    made = []
    for name in general:
        kind = roi.kind(name)
        made.append(
            kind(build(kind.Params, blocks.get(name, {}), f"roi_providers.{name}", str(folder / ABOUT)), context)
        )
    return made
