"""Stages `data` and `roi` as commands, on a folder made by the test."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from smoke.process import Done, stage
from uld.artifacts.annotations import read_annotations
from uld.artifacts.boxes import read_boxes
from uld.geometry import coords
from uld.images.crops import Crops

ROOT = Path(__file__).parents[2]
PARAMS = """
seed: 0
dataset: folder
source: photos
datasets: {folder: {test: 0.25, max_bad: 0.3, subset: null, normaliser: {}}}
roi: {providers: [annotation, full], margin: 0.1, crop: 16, border: 0, max_missing: 0}
roi_providers: {annotation: {set: points}, full: {}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "params.yaml").write_text(PARAMS)
    for i in range(8):
        photo = np.zeros((40, 50, 3), np.uint8)
        photo[10 + i : 13 + i, 20:23] = 255
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), photo)
    lines = [f"{i}.png,10,5,{21},{11 + i},40,35" for i in range(6)]
    (tmp_path / "photos/landmarks.csv").write_text("image,x0,y0,x1,y1,x2,y2\n" + "\n".join(lines) + "\n")
    (tmp_path / "photos/bad.jpg").write_bytes(b"")
    return tmp_path


def shell(project: Path, name: str) -> Done:
    """The stage in a process of its own, which finds nothing on its PATH."""
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py")]
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "ULD_THREADS": "1"}
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_both_stages(project: Path) -> None:
    data = shell(project, "data")
    assert data.returncode == 0, data.stderr
    assert "unreadable: bad.jpg: the file is empty (0 bytes)." in data.stdout
    assert "9 files: 6 to train, 2 to test, 1 kept out" in data.stdout
    found = shell(project, "roi")
    assert found.returncode == 0, found.stderr
    boxes = read_boxes(project / "artifacts/roi/boxes.csv")
    assert boxes["provider"].tolist() == ["annotation:points"] * 6 + ["full"] * 2
    assert boxes.iloc[0][["x1", "y1", "x2", "y2"]].tolist() == [9.5, 4.5, 40.5, 35.5]
    crops = Crops(project / "artifacts/roi/crops.zarr")
    marks = read_annotations(project / "artifacts/data/annotations.h5").sets["points"].xy
    at = coords.apply(crops.affine[:6], marks)[:, 1]  # the white dot's centre, in the crop
    for crop, (x, y) in zip(crops.images(np.arange(6)), at, strict=True):
        weight = crop[..., 0].astype(float)
        rows, columns = np.indices(weight.shape)
        centre = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
        np.testing.assert_allclose(centre, (x, y), atol=0.1)


def test_what_is_said_of_markups(project: Path) -> None:
    """That errors are divided by a box; and to an unknown mark-up, those there are."""
    lines = [f"{i}.png,10,5,30,6" for i in range(3)]
    (project / "photos/landmarks-eyes.csv").write_text("\n".join(["image,x_l,y_l,x_r,y_r", *lines]) + "\n")
    text = PARAMS.replace("normaliser: {}", "normaliser: {eyes: {left: [l], right: [1]}}")
    (project / "params.yaml").write_text(text.replace("set: points", "set: p68"))
    data = stage(project, "data")
    assert data.returncode == 0, data.stderr
    assert "6 images annotated; mark-ups: eyes, points\n" in data.stdout
    box = "errors are divided by the size of the points' box: they do not compare with inter-ocular ones"
    assert [line for line in data.stdout.splitlines() if box in line] == [f"mark-up points: {box}"]
    sets = read_annotations(project / "artifacts/data/annotations.h5").sets
    assert (sets["eyes"].left, sets["eyes"].right, sets["points"].left) == ((0,), (1,), ())
    assert "the data have no mark-up 'p68'; there is eyes, points." in stage(project, "roi").stderr
    (project / "params.yaml").write_text(text.replace("set: points", "set: eyes"))
    assert stage(project, "roi").returncode == 0
    provider = read_boxes(project / "artifacts/roi/boxes.csv")["provider"]
    assert provider.tolist() == ["annotation:eyes"] * 3 + ["full"] * 5


def test_what_is_said_of_a_subset(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """How many images it leaves out, and no line for each; that there are fewer than asked for."""
    text = PARAMS.replace("subset: null", "subset: {train: 4, test: 9, choose: first}")
    (project / "params.yaml").write_text(text)
    data = stage(project, "data")
    assert data.returncode == 0, data.stderr
    assert "9 files: 4 to train, 2 to test, 0 kept out, 3 not in the subset\n" in data.stdout
    assert "unused" not in data.stdout
    assert "datasets.folder.subset.test: there are 2 images, not 9: all are used." in caplog.text
    assert stage(project, "roi").returncode == 0
    assert len(read_boxes(project / "artifacts/roi/boxes.csv")) == 6


def test_a_second_run_gives_the_same_bytes(project: Path) -> None:
    seen = []
    for _ in range(2):
        assert stage(project, "data").returncode == 0 and stage(project, "roi").returncode == 0
        seen.append({p: p.read_bytes() for p in (project / "artifacts").rglob("*") if p.is_file()})
    assert seen[0] == seen[1]


def test_user_errors_have_no_traceback(project: Path) -> None:
    early = shell(project, "roi")
    assert early.returncode == 2 and "dvc repro data" in early.stderr and "Traceback" not in early.stderr
    (project / "photos/landmarks.csv").write_text("image,x0,y0\nnobody.png,1,1\n")
    bad = stage(project, "data")
    assert bad.returncode == 2 and "nobody.png" in bad.stderr and "Traceback" not in bad.stderr
    assert not (project / "artifacts/data/index.csv").exists()
