"""Every writer of what crosses stages, stopped at each point: the old content stays, or the whole new one is there."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from smoke.project import Project
from uld.artifacts import annotations, instances, labels, landmarks, models, predictions, sums
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_arrays, read_json, write_arrays, write_json, write_table
from uld.artifacts.index import read_index
from uld.artifacts.instances import Instances
from uld.base import writing
from uld.base.errors import ULDError
from uld.base.params import load
from uld.diffusion.reduce import Reduction
from uld.images import cut

Write = Callable[[Path, Path], object]
MODEL = "artifacts/rounds/silk"


def objects(root: Path, out: Path) -> None:
    some = Instances(np.array([0, 40]), np.zeros((40, 2), np.float32), np.zeros(40, np.int64), np.ones(40, np.float32))
    instances.write_instances(out / "objects.h5", some)


def bundle(root: Path, out: Path) -> None:
    source = root / "artifacts/detectors/pixels"
    for name in ("detector.json", "model/model.json"):
        writing.write(out / name, (source / name).read_bytes())
    sums.write_sums(out)


def crops(root: Path, out: Path) -> None:
    boxes = read_boxes(root / "artifacts/roi/boxes.csv")
    roi = load(root / "params.yaml")["roi"]
    cut.write(out / "crops.zarr", root / "photos", boxes, roi["margin"], roi["crop"])


def model(root: Path, out: Path) -> None:
    models.save_model(models.load_model(root / MODEL), out / "model", models.read_origin(root / MODEL))


# what is read from the smoke run is written once more
WRITERS: dict[str, Write] = {
    "write_table": lambda root, out: write_table(out / "i.csv", read_index(root / "artifacts/data/index.csv")),
    "write_json": lambda root, out: write_json(out / "m.json", read_json(root / "metrics/duld.json", "evaluate")),
    "write_arrays": lambda root, out: write_arrays(
        out / "r.h5", read_arrays(root / "artifacts/regressors/duld.h5", "regress")
    ),
    "write_annotations": lambda root, out: annotations.write_annotations(
        out / "a.h5", annotations.read_annotations(root / "artifacts/data/annotations.h5")
    ),
    "write_labels": lambda root, out: labels.write_labels(
        out / "l.h5", labels.read_labels(root / "artifacts/labels/duld-1/labels.h5")
    ),
    "write_landmarks": lambda root, out: landmarks.write_landmarks(
        out / "k.h5", landmarks.read_landmarks(root / "artifacts/landmarks/duld_pp/landmarks.h5")
    ),
    "write_predictions": lambda root, out: predictions.write_predictions(
        out / "p.h5", predictions.read_predictions(root / "artifacts/predictions/duld.h5")
    ),
    "write_instances": objects,
    "save_model": model,
    "write_sums": bundle,
    "crops": crops,
    "reduction": lambda root, out: Reduction({"l01_t50.weight": torch.ones(40, 40)}).save(out),
}


def test_every_writer_is_in_the_table() -> None:
    rooms = Path(writing.__file__).parents[1] / "artifacts"
    text = "\n".join(path.read_text() for path in rooms.glob("*.py"))
    named = {word.split("(")[0] for word in text.split("\ndef ")[1:] if word.startswith(("write_", "save_"))}
    assert named and named <= set(WRITERS)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write beyond `size` bytes of any file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def whole(finished: Project, tmp_path: Path, name: str) -> dict[str, bytes]:
    """The files that a writer makes."""
    WRITERS[name](finished.root, tmp_path / "whole")
    return files(tmp_path / "whole")


@pytest.mark.parametrize("share", [0, 0.4, 0.99])
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full(
    finished: Project, tmp_path: Path, name: str, share: float, whole: dict[str, bytes]
) -> None:
    """What is under a final name is whole; and once there is room, the same call ends in the same bytes."""
    out = tmp_path / "out"
    with pytest.raises((OSError, ULDError)), largest_file(int(share * max(map(len, whole.values())))):
        WRITERS[name](finished.root, out)
    assert files(out).items() <= whole.items()
    WRITERS[name](finished.root, out)
    assert files(out) == whole


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_killed_at_its_rename(
    finished: Project, tmp_path: Path, name: str, after: bool, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if not child:
        honest = os.replace

        def killed(old: Path, new: Path) -> None:
            within = ".part" in str(new)  # zarr renames as well
            if within or after:
                honest(old, new)
            if not within:
                os._exit(7)

        writing.os.replace = killed  # type: ignore[assignment]
        try:
            WRITERS[name](finished.root, out)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    named = {path: data for path, data in files(out).items() if ".part" not in path}
    assert named.items() <= whole.items() and bool(named) == after
    WRITERS[name](finished.root, out)
    assert files(out) == whole
