"""A discovered landmark detector, packed into a folder: use it on any photograph.

import uld
detector = uld.Detector.load("artifacts/detectors/duld")
found = detector.detect([uld.decode("photo.jpg")])
found.landmarks.filled_xy[0]                    # (K, 2) x, y in pixels of the photograph
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld import methods, roi, sources
from uld.artifacts.files import read_json, write_json
from uld.artifacts.found import Found, joined
from uld.artifacts.landmarks import Landmarks, read_landmarks, write_landmarks
from uld.artifacts.models import ABOUT as MODEL
from uld.artifacts.models import WEIGHTS, load_model, read_origin
from uld.base import runtime
from uld.base.errors import ArtifactError
from uld.base.params import build
from uld.geometry import coords
from uld.images import Pixels
from uld.images.cut import cut
from uld.landmarks.predict import placed
from uld.methods.lines import RowParams
from uld.sources.live import LiveViews
from uld.sources.source import Source

ABOUT = "detector.json"
VERSION = 2  # of the folder's layout


@dataclass(frozen=True)
class Detected:
    """Landmarks of B photographs in their own pixels.

    boxes (B, 4): the object boxes used, x1, y1, x2, y2, NaN where none was found (all landmarks are NaN then).
    """

    landmarks: Found
    boxes: NDArray[np.float64]


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
    about = {
        "version": VERSION,
        "method": row.method,
        "params": asdict(block),
        "roi": asdict(crop),
        "roi_providers": {name: asdict(settings) for name, settings in providers.items()},
    }
    (out / "model").mkdir(parents=True, exist_ok=True)
    for name in (MODEL, WEIGHTS):  # not what it was trained on
        shutil.copy(root / "rounds" / row.start / name, out / "model")
    sources.of(row.reads).pack(row.reads, root, out)
    write_landmarks(out / "landmarks.h5", landmarks)
    write_json(out / ABOUT, about)


class Detector:
    """A packed detector, ready for photographs. Coordinates in, coordinates out: original pixels, (x, y)."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Use `Detector.load`."""
        kind = methods.load(about["method"])
        self._method = kind(build(kind.Cluster, about["params"], "params", str(folder / ABOUT)))
        self.landmarks = read_landmarks(folder / "landmarks.h5")
        self._roi = build(roi.RoiParams, about["roi"], "roi", str(folder / ABOUT))
        self._providers = _providers(about["roi_providers"], folder)
        self._model = load_model(folder / "model").to(runtime.device())
        self._read = sources.of(read_origin(folder / "model").reads).reader(self._model, folder)

    @classmethod
    def load(cls, folder: Path | str) -> "Detector":
        """Open an artifacts/detectors/<row>/ folder.

        Raises:
            ArtifactError: no detector there, one of an older version, or its backbone has changed.
            BackboneError: a pinned model is gone.
        """
        folder = Path(folder)
        about = read_json(folder / ABOUT, "predict")
        if about.get("version") != VERSION:
            raise ArtifactError(
                f"{folder} was packed by another version of uld: pack it anew: `dvc repro -f predict@{folder.name}`."
            )
        return cls(folder, about)

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
        good = np.flatnonzero(np.isfinite(boxes).all(1))
        if not len(good):
            return Detected(Found.absent(len(images), self.count), boxes)
        affine = coords.crop(boxes[good], self._roi.margin, self._roi.crop)
        cuts = [cut(images[i], affine[n], self._roi.crop) for n, i in enumerate(good)]
        pixels, inside = (np.stack(part) for part in zip(*cuts, strict=True))
        views = LiveViews(self._read, pixels, inside, affine, boxes[good], self._model.grid)
        source = Source(self._model, views)
        parts = [placed(self._method, self.landmarks, source, rows) for rows in runtime.batches(np.arange(len(good)))]
        return Detected(joined(parts).put(good, len(images)), boxes)


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
