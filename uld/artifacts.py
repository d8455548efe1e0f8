"""Readers and writers of the files that cross stages. The contract of each is in docs/artifacts.md.

Same inputs, same bytes: no clock, host, user or absolute path is written. Every writer builds a temporary file beside
the target and renames it, so a killed stage leaves no half file under a final name.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.errors import ArtifactError

SPLITS = ("train", "test")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def require(path: Path, made_by: str) -> Path:
    """`path` if it exists, else an error that names the stage which makes it."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing: run `dvc repro {made_by}` first.")
    return path


def sha256(path: Path) -> str:
    """Fingerprint of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- tables a person opens -------------------------------------------------------------------------------------------


def write_table(path: Path, table: pd.DataFrame) -> None:
    """CSV with 6 significant digits, no row numbers, "\\n" line ends."""
    with atomic(path) as part:
        table.to_csv(part, index=False, float_format="%.6g", lineterminator="\n")


def read_table(path: Path, made_by: str, text: tuple[str, ...] = ("image",)) -> pd.DataFrame:
    """CSV of `write_table`; the columns named in `text` stay strings whatever they look like ("NA" is a name)."""
    return pd.read_csv(require(path, made_by), dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Sorted JSON, floats rounded to 6 digits. NaN and infinity raise: they would poison `dvc metrics diff`."""

    def plain(node: Any, where: str) -> Any:
        if isinstance(node, dict):
            return {str(k): plain(v, f"{where}.{k}") for k, v in node.items()}
        if isinstance(node, (list, tuple)):
            return [plain(v, f"{where}[{i}]") for i, v in enumerate(node)]
        if isinstance(node, (bool, str, int)) or node is None:
            return node
        if isinstance(node, (np.integer, np.bool_)):
            return node.item()
        if not math.isfinite(node):
            raise ArtifactError(f"{path}: value {node} at {where} is not finite.")
        return round(float(node), 6)

    with atomic(path) as part:
        part.write_text(json.dumps(plain(tree, ""), indent=1, sort_keys=True) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """JSON tree of `write_json`."""
    return json.loads(require(path, made_by).read_text())


# --- flat HDF5 -------------------------------------------------------------------------------------------------------


def _write_h5(path: Path, arrays: dict[str, NDArray[Any]], attrs: dict[str, Any]) -> None:
    with atomic(path) as part, h5py.File(part, "w") as file:
        for name, value in arrays.items():
            if value.dtype.kind in "UO":
                file.create_dataset(name, data=value.astype(object), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=value)
        for name, text in attrs.items():
            file.attrs[name] = text


def _read_h5(path: Path, made_by: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with h5py.File(require(path, made_by), "r") as file:
            arrays: dict[str, Any] = {}

            def visit(name: str, node: Any) -> None:
                if isinstance(node, h5py.Dataset):
                    text = h5py.check_string_dtype(node.dtype) is not None
                    arrays[name] = np.array(node.asstr()[:], dtype=object) if text else node[...]

            file.visititems(visit)
            return arrays, dict(file.attrs)
    except OSError as error:
        raise ArtifactError(f"{path} is no readable HDF5 file: delete it and run `dvc repro {made_by}`.") from error


@dataclass(frozen=True)
class AnnotationSet:
    """One mark-up of the images: `xy` (N, P, 2) float32, image pixels, NaN = absent.

    `left` and `right` are the point indices whose two means span the normaliser (the eye centres of a face); both
    empty: the square root of the area of the annotated points' box.
    """

    xy: NDArray[np.float32]
    left: tuple[int, ...] = ()
    right: tuple[int, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """`images` (N,) ids and named mark-ups aligned with them; no set at all for unlabelled data."""

    images: NDArray[Any]
    sets: dict[str, AnnotationSet] = field(default_factory=dict)


def write_annotations(path: Path, annotations: Annotations) -> None:
    """Write artifacts/data/annotations.h5."""
    arrays: dict[str, NDArray[Any]] = {"images": np.asarray(annotations.images, dtype=object)}
    for name, one in annotations.sets.items():
        arrays[f"{name}/xy"] = one.xy.astype(np.float32)
        arrays[f"{name}/left"] = np.array(one.left, dtype=np.int32)
        arrays[f"{name}/right"] = np.array(one.right, dtype=np.int32)
    _write_h5(path, arrays, {})


def read_annotations(path: Path) -> Annotations:
    """Read artifacts/data/annotations.h5."""
    arrays, _ = _read_h5(path, "data")
    names = sorted({key.split("/")[0] for key in arrays if "/" in key})
    sets = {
        name: AnnotationSet(
            arrays[f"{name}/xy"], tuple(map(int, arrays[f"{name}/left"])), tuple(map(int, arrays[f"{name}/right"]))
        )
        for name in names
    }
    return Annotations(arrays["images"], sets)


@dataclass(frozen=True)
class PoseCentroids:
    """Landmarks that are looked for differently in each of Q poses (two-stage clustering).

    codes (Q, C) float32 centroids of pose codes; landmarks (Q, K, D) float32 centroids of each pose, slot k of each is
    landmark k; counts (Q,) int64 images; places (V, Q, K, 2) float32 cells: where they are looked for in a plain and,
    V = 2, a mirrored map; None: anywhere alike.
    """

    codes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    counts: NDArray[np.int64]
    places: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Landmarks:
    """What a table row discovered (artifacts/landmarks/V/landmarks.h5).

    centroids (K, D) float32; counts (K,) int64: sampled points a cluster; exemplar_image (K, E) int64 rows of boxes.csv
    and exemplar_xy (K, E, 2) float32 image pixels: the E training points nearest to each centroid, -1/NaN where fewer;
    sample (S, D) float16 descriptors and sample_label (S,) int64 for pictures of the clusters. poses: of two-stage
    clustering only.
    """

    centroids: NDArray[np.float32]
    counts: NDArray[np.int64]
    exemplar_image: NDArray[np.int64]
    exemplar_xy: NDArray[np.float32]
    sample: NDArray[np.float16]
    sample_label: NDArray[np.int64]
    poses: PoseCentroids | None = None


def write_landmarks(path: Path, landmarks: Landmarks) -> None:
    """Write artifacts/landmarks/V/landmarks.h5."""
    arrays = {name: value for name, value in vars(landmarks).items() if name != "poses"}
    if landmarks.poses is not None:
        arrays |= {f"poses/{name}": value for name, value in _given(landmarks.poses).items()}
    _write_h5(path, arrays, {})


def read_landmarks(path: Path) -> Landmarks:
    """Read artifacts/landmarks/V/landmarks.h5."""
    arrays, _ = _read_h5(path, "discover")
    poses = {name.removeprefix("poses/"): arrays.pop(name) for name in list(arrays) if name.startswith("poses/")}
    return Landmarks(**arrays, poses=PoseCentroids(**poses) if poses else None)


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels of a round (artifacts/labels/R/labels.h5), one line a labelled point, sorted by view and image.

    image (M,) int64 rows of boxes.csv; view (M,) int64: the view of the bank that was labelled, the plain or the
    mirrored one; label (M,) int64 landmark, at most one of each in a view of an image; xy (M, 2) float32 image pixels;
    score (M,) float32, cosine to the centroid; detected (M,) bool: a detection and not a dense match; pose (M,) int64
    pose cluster of the image in that view, of two-stage clustering only.
    """

    image: NDArray[np.int64]
    view: NDArray[np.int64]
    label: NDArray[np.int64]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    detected: NDArray[np.bool_]
    pose: NDArray[np.int64] | None = None


def write_labels(path: Path, labels: Labels) -> None:
    """Write artifacts/labels/R/labels.h5."""
    _write_h5(path, _given(labels), {})


def read_labels(path: Path) -> Labels:
    """Read artifacts/labels/R/labels.h5."""
    arrays, _ = _read_h5(path, "cluster")
    return Labels(**arrays)


@dataclass(frozen=True)
class Predictions:
    """Landmarks of all images for one table row (artifacts/predictions/V.h5), image pixels.

    images (N,) ids and split (N,) in the order of boxes.csv; xy (N, K, 2) float32, NaN = not detected, with score
    (N, K) (higher is surer, NaN where absent); dense_xy (N, K, 2) and dense_score: the best match of each landmark
    anywhere in the ROI, detected or not; view_xy (N, V, K, 2): the dense prediction made in view v of the
    bank, mapped back to the image (v = 0 is the untouched view); mirrored (V,) bool. Of two-stage clustering only:
    pose (N,) int64, and pose_margin (N,) float32: distance to the nearest pose over that to the second nearest, 0 to 1.
    """

    images: NDArray[Any]
    split: NDArray[Any]
    xy: NDArray[np.float32]
    score: NDArray[np.float32]
    dense_xy: NDArray[np.float32]
    dense_score: NDArray[np.float32]
    view_xy: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    pose: NDArray[np.int64] | None = None
    pose_margin: NDArray[np.float32] | None = None

    @property
    def filled_xy(self) -> NDArray[np.float32]:
        """(N, K, 2): detections where there are some, the best match elsewhere."""
        return np.where(np.isfinite(self.xy), self.xy, self.dense_xy)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write artifacts/predictions/V.h5."""
    _write_h5(path, _given(predictions), {})


def read_predictions(path: Path) -> Predictions:
    """Read artifacts/predictions/V.h5."""
    arrays, _ = _read_h5(path, "predict")
    return Predictions(**arrays)


def _given(table: Labels | Predictions | PoseCentroids) -> dict[str, NDArray[Any]]:
    return {name: value for name, value in vars(table).items() if value is not None}


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]], attrs: dict[str, Any] | None = None) -> None:
    """Flat HDF5 of named arrays (keys may hold "/"), for artifacts with a variable set of arrays."""
    _write_h5(path, arrays, attrs or {})


def read_arrays(path: Path, made_by: str) -> dict[str, Any]:
    """Arrays of `write_arrays` by name."""
    return _read_h5(path, made_by)[0]


# --- table of rows ---------------------------------------------------------------------------------------------------


def read_boxes(path: Path) -> pd.DataFrame:
    """artifacts/roi/boxes.csv: its order is the row order of crops, features and predictions."""
    return read_table(path, "roi", text=("image", "split", "provider"))
