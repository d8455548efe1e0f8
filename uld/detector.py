"""A discovered landmark detector, packed into a folder: use it on any photograph.

import uld
detector = uld.Detector.load("artifacts/detectors/duld")
found = detector.detect([uld.decode("photo.jpg")])
found.landmarks.filled_xy[0]                    # (K, 2) x, y in pixels of the photograph
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as closed

from uld import methods, roi, sources
from uld.artifacts import sums
from uld.artifacts.files import read_json, sha256, write_json
from uld.artifacts.found import Found, joined
from uld.artifacts.landmarks import Landmarks, read_landmarks, write_landmarks
from uld.artifacts.models import ABOUT as MODEL
from uld.artifacts.models import WEIGHTS, load_model, read_origin
from uld.base import params, runtime
from uld.base.errors import ArtifactError, ParamsError
from uld.base.params import CLOSED, build
from uld.base.writing import atomic_folder
from uld.geometry import coords
from uld.images import Pixels
from uld.images.cut import cut
from uld.landmarks.predict import placed
from uld.methods.lines import RowParams
from uld.sources.live import LiveViews
from uld.sources.source import Source

ABOUT = "detector.json"
VERSION = 3  # of the folder's layout
LARGEST = 2**13  # pixels a side of a crop: beyond it a photograph takes all memory


@closed(frozen=True, config=CLOSED)
class About:
    """What detector.json holds: `params` are the method's block `cluster`, the rest are blocks of params.yaml."""

    version: int
    method: str
    params: dict[str, Any]
    roi: roi.RoiParams
    roi_providers: dict[str, dict[str, Any]]


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
    """Gather all that inference needs: a small backbone travels inside, a pinned one by path and hash.

    A bundle that could not be finished leaves nothing at `out`.
    """
    about = {
        "version": VERSION,
        "method": row.method,
        "params": asdict(block),
        "roi": asdict(crop),
        "roi_providers": {name: asdict(settings) for name, settings in providers.items()},
    }
    with atomic_folder(out) as folder:
        (folder / "model").mkdir()
        for name in (MODEL, WEIGHTS):  # not what it was trained on
            shutil.copy(root / "rounds" / row.start / name, folder / "model")
        sources.of(row.reads).pack(row.reads, root, folder)
        write_landmarks(folder / "landmarks.h5", landmarks)
        write_json(folder / ABOUT, about)
        sums.write_sums(folder)


class Detector:
    """A packed detector, ready for photographs. Coordinates in, coordinates out: original pixels, (x, y)."""

    def __init__(self, folder: Path, about: About) -> None:
        """Use `Detector.load`."""
        self.fingerprint = sha256(folder / sums.FILE)  # stands for the content of all files
        kind = methods.load(about.method)
        self._method = kind(build(kind.Cluster, about.params, "params", str(folder / ABOUT)))
        self.landmarks = read_landmarks(folder / "landmarks.h5")
        self._roi = about.roi
        self._providers = _providers(about.roi_providers, folder)
        self._model = load_model(folder / "model").to(runtime.device())
        self._read = sources.of(read_origin(folder / "model").reads).reader(self._model, folder)

    @classmethod
    def load(cls, folder: Path | str, open_outside: bool = False) -> "Detector":
        """Open an artifacts/detectors/<row>/ folder.

        Args:
            open_outside: whether it may open models that lie outside the folder and that params.yaml of the current
                folder does not name.

        Raises:
            ArtifactError: no detector there, one of an older version, a file of it is damaged, its backbone has
                changed, or it wants to open what it may not.
            BackboneError: a pinned model is gone.
        """
        folder = Path(folder)
        remedy = f"pack it anew: `dvc repro -f predict@{folder.name}`"
        with _blamed_on_the_bundle(remedy):
            about = _about(folder, remedy)
            sums.check_sums(folder, remedy)
            strange = outside(folder, about)
        if not open_outside:
            _refuse(folder, [place for place in strange if place not in _named()])
        with _blamed_on_the_bundle(remedy):
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
        cuts = [cut(images[i], affine[n], self._roi.crop, self._roi.border) for n, i in enumerate(good)]
        pixels, inside = (np.stack(part) for part in zip(*cuts, strict=True))
        views = LiveViews(self._read, pixels, inside, affine, boxes[good], self._model.grid)
        source = Source(self._model, views)
        parts = [placed(self._method, self.landmarks, source, rows) for rows in runtime.batches(np.arange(len(good)))]
        return Detected(joined(parts).put(good, len(images)), boxes)


def outside(folder: Path, about: About) -> list[str]:
    """Folders, files and hub ids outside the bundle that it opens, sorted."""
    found = {
        str(block[name])
        for provider, block in about.roi_providers.items()
        for name in roi.kind(provider).opens
        if name in block
    }
    return sorted({*found, *sources.of(read_origin(folder / "model").reads).outside(folder)})


def _about(folder: Path, remedy: str) -> About:
    tree = read_json(folder / ABOUT, f"-f predict@{folder.name}")
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        raise ArtifactError(f"{folder} was packed by another version of uld: {remedy}.")
    about = build(About, tree, "detector", str(folder / ABOUT))
    if about.roi.crop > LARGEST:
        raise ArtifactError(f"{folder / ABOUT}: roi.crop: {about.roi.crop} is beyond {LARGEST} pixels: {remedy}.")
    return about


@contextmanager
def _blamed_on_the_bundle(remedy: str) -> Iterator[None]:
    """Wrong keys of its files are no wrong keys of params.yaml."""
    try:
        yield
    except ParamsError as error:
        raise ArtifactError(f"{error}\nThe detector is damaged or of another version: {remedy}.") from error


def _refuse(folder: Path, strange: list[str]) -> None:
    if strange:
        raise ArtifactError(
            f"{folder} would open what lies outside it and params.yaml here does not name: {', '.join(strange)}. If "
            "you trust both, say so: `uld predict --open-outside`, or Detector.load(..., open_outside=True)."
        )


def _named(project: Path = Path("params.yaml")) -> set[str]:
    """Models that the current project names itself: paths and hub ids of backbones and of providers of object boxes."""
    tree = params.load(project) if project.is_file() else {}
    tables = [tree[name] for name in ("backbones", "roi_providers") if isinstance(tree.get(name), dict)]
    blocks = [block for table in tables for block in table.values() if isinstance(block, dict)]
    return {str(block[key]) for block in blocks for key in ("path", "folder", "weights") if key in block}


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
