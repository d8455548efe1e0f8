"""Every file that crosses stages, damaged in every way: its reader refuses it with the remedy, or says what it said.

The files are those of the smoke run. One that no line of `READERS` covers fails the test, so a new artifact brings its
reader along.
"""

import builtins
import io
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from smoke.project import Project
from uld.artifacts.annotations import read_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_arrays, read_json, read_table
from uld.artifacts.index import read_index
from uld.artifacts.labels import read_labels
from uld.artifacts.landmarks import read_landmarks
from uld.artifacts.models import load_model, read_moments, read_origin
from uld.artifacts.predictions import read_predictions
from uld.base.errors import ULDError
from uld.detector import Detector
from uld.diffusion import backbone
from uld.diffusion.store import FeatureStore
from uld.images.crops import Crops

Read = Callable[[Path], Any]


def crops(path: Path) -> Any:
    """All of crops.zarr."""
    found = Crops(path)
    return found.images(slice(None)), found.inside(slice(None)), found.affine, found.fingerprint()


def store(path: Path) -> Any:
    """All of a feature store; the network in it is read when a detector is packed."""
    found = FeatureStore(path)
    rows, views = found.layout.items.T
    return {name: value.numpy() for name, value in found.views_of(rows, views, found.names).items()}


def model(path: Path) -> Any:
    """Weights and origin of a start or round."""
    return {name: value.numpy() for name, value in load_model(path).state_dict().items()}, vars(read_origin(path))


def moments(path: Path) -> Any:
    """What the optimiser of a start or round remembers."""
    return {name: value.numpy() for name, value in read_moments(path).items()}


def network(path: Path) -> Any:
    """The backbone; its hash is of all that makes a feature."""
    return backbone.load(path).fingerprint


def detector(path: Path) -> Any:
    """Landmarks of a grey photograph."""
    grey = np.full((40, 40, 3), 128, np.uint8)
    return vars(Detector.load(path).detect([grey]).landmarks)


# files below the smoke project -> what reads them, given the part of the path that the group stands for; whether the
# bytes are verified, so that no flipped one gets through. Text is not: it is judged by its form, and DVC sees a change.
READERS: dict[str, tuple[Read, bool]] = {
    r"artifacts/data/index\.csv": (read_index, False),
    r"artifacts/data/annotations\.h5": (read_annotations, True),
    r"artifacts/roi/boxes\.csv": (read_boxes, False),
    r"artifacts/roi/missing\.csv": (lambda path: read_table(path, "roi", ("image", "split", "reason")), False),
    r"(artifacts/roi/crops\.zarr)/\w+/c/.*": (crops, True),
    r"(artifacts/roi/crops\.zarr)/.*zarr\.json": (crops, False),
    r"(artifacts/backbone)/(unet|scheduler|uld\.json|reference\.json).*": (network, True),
    r"(artifacts/features/\w+\.zarr)/\w+/c/.*": (store, True),
    r"(artifacts/features/\w+\.zarr)/.*zarr\.json": (store, False),
    r"(artifacts/rounds/[\w-]+)/model\.safetensors": (model, True),
    r"(artifacts/rounds/[\w-]+)/model\.json": (model, False),
    r"(artifacts/rounds/[\w-]+)/moments\.safetensors": (moments, True),
    r"artifacts/(rounds|labels)/[\w-]+/labels\.h5": (read_labels, True),
    r"artifacts/(landmarks|labels)/[\w-]+/landmarks\.h5": (read_landmarks, True),
    r"artifacts/landmarks/\w+/quality\.json": (lambda path: read_json(path, "discover"), False),
    r"artifacts/predictions/\w+\.h5": (read_predictions, True),
    r"artifacts/regressors/\w+\.h5": (lambda path: read_arrays(path, "regress"), True),
    r"(artifacts/detectors/\w+)/.*": (detector, True),
    r"metrics/.*\.json": (lambda path: read_json(path, "evaluate"), False),
    r"plots/\w+/\w+\.csv": (lambda path: read_table(path, "evaluate", ()), False),
}
# written for people and for DVC; no stage reads them
UNREAD = [
    "artifacts/code/*",
    "artifacts/backbone/model_index.json",
    "artifacts/features/*/backbone/*",
    "artifacts/rounds/*/training.csv",
    "report/*",
]
FOLDERS = (crops, store, model, moments, network, detector)  # readers of a folder
EXAMPLES = 1  # files of a kind that are damaged


def kind_of(name: str) -> str | None:
    """The line of READERS for a file; None of one that no stage reads."""
    if any(fnmatch(name, pattern) for pattern in UNREAD):
        return None
    kinds = [pattern for pattern in READERS if re.fullmatch(pattern, name)]
    assert len(kinds) == 1, f"{name}: READERS has {len(kinds)} lines for it"
    return kinds[0]


def sorted_by_kind(project: Project) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for folder in ("artifacts", "metrics", "plots", "report"):
        for name in project.files(folder):
            if kind := kind_of(f"{folder}/{name}"):
                found.setdefault(kind, []).append(f"{folder}/{name}")
    return found


@pytest.fixture(scope="module")
def kinds(finished: Project) -> dict[str, list[str]]:
    return sorted_by_kind(finished)


@pytest.fixture(scope="module")
def damaged(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the smoke run left."""
    root = tmp_path_factory.mktemp("faults")
    for folder in ("artifacts", "metrics", "plots"):
        shutil.copytree(finished.root / folder, root / folder)
    return root


def test_every_artifact_has_a_reader(kinds: dict[str, list[str]]) -> None:
    assert set(kinds) == set(READERS)


# --- what may happen to a file ---


def missing(path: Path, data: bytes) -> None:
    path.unlink()


def empty(path: Path, data: bytes) -> None:
    path.write_bytes(b"")


def half(path: Path, data: bytes) -> None:
    path.write_bytes(data[: len(data) // 2])


def garbage(path: Path, data: bytes) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def flipped(place: float) -> Callable[[Path, bytes], None]:
    def harm(path: Path, data: bytes) -> None:
        at = int(place * (len(data) - 1))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :])

    harm.__name__ = f"flipped at {place:g}"
    return harm


HARM = [missing, empty, half, garbage, *(flipped(place) for place in (0, 0.03, 0.3, 0.55, 0.8, 1))]


@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_refused_with_the_remedy(
    kinds: dict[str, list[str]], damaged: Path, kind: str, harm: Callable[[Path, bytes], None]
) -> None:
    read, verified = READERS[kind]
    for name in kinds[kind][:EXAMPLES]:
        path, place = damaged / name, damaged / part_of(kind, name, read)
        data, whole = path.read_bytes(), joblib.hash(read(place))
        try:
            harm(path, data)
            said = outcome(read, place)
        finally:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        if isinstance(said, ULDError):
            assert re.search(r"`dvc repro|delete it|chmod|not known", str(said)), said
        elif verified or harm in (missing, empty, garbage):
            assert said == whole, f"{name}: {harm.__name__} went unseen"


def part_of(kind: str, name: str, read: Read) -> str:
    found = re.fullmatch(kind, name)
    assert found is not None
    return found[1] if read in FOLDERS else name


def outcome(read: Read, place: Path) -> Any:
    """The error of the project's own, or the hash of what was read."""
    try:
        return joblib.hash(read(place))
    except ULDError as error:
        return error


@pytest.mark.parametrize("kind", READERS)
def test_a_locked_file_is_not_told_to_be_deleted(
    kinds: dict[str, list[str]], damaged: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights do not bind every user, so the system's answer is played."""
    read, _ = READERS[kind]
    name = kinds[kind][0]
    honest = builtins.open

    def locked(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == str(damaged / name):
            raise PermissionError(13, "Permission denied", str(file))
        return honest(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", locked)
    monkeypatch.setattr(io, "open", locked)
    said = outcome(read, damaged / part_of(kind, name, read))
    if isinstance(said, ULDError):  # what is read without Python's own `open` is not reached
        assert "delete" not in str(said), said
