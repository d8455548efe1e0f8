"""Points of a file: which images and pixels they are of, how places are described, and what is refused."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.graph import ROOT, load
from uld import keypoints
from uld.artifacts.files import write_table
from uld.base.code import opens
from uld.base.errors import ArtifactError, DataError, ParamsError
from uld.base.imports import Code
from uld.geometry import coords
from uld.keypoints.classical import Classical, ClassicalParams
from uld.keypoints.file import File, FileParams

SIZE = 16
BOXES = np.array([[-0.5, -0.5, 15.5, 15.5], [3.5, 7.5, 35.5, 39.5], [0.5, 0.5, 8.5, 8.5]])
PLAIN: Any = SimpleNamespace(affine=coords.view(SIZE), flipped=False)
VIEWS: Any = SimpleNamespace(frames=SimpleNamespace(affine=coords.crop(BOXES, 0.0, SIZE), size=SIZE))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of four photographs of 40 x 50 pixels, of which the third has no box, and a file that was not read."""
    monkeypatch.chdir(tmp_path)
    names = ["NA", "b.png", "c.png", "d.png"]
    index = pd.DataFrame({"image": [*names, "e.png"], "split": ["train", "train", "train", "test", None]})
    index[["group", "sha256", "reason"]] = ""
    index["status"] = ["ok"] * 4 + ["unused"]
    index["width"], index["height"] = [40] * 4 + [0], [50] * 4 + [0]
    boxes = index.loc[[0, 1, 3], ["image", "split"]].assign(provider="full")
    boxes[["x1", "y1", "x2", "y2"]] = BOXES
    for folder, name, table in (("data", "index", index), ("roi", "boxes", boxes)):
        (tmp_path / "artifacts" / folder).mkdir(parents=True)
        write_table(tmp_path / f"artifacts/{folder}/{name}.csv", table)
    return tmp_path


def written(text: str) -> FileParams:
    """The params of a file with this text."""
    Path("points.csv").write_text(text)
    return FileParams("points.csv", hashlib.sha256(text.encode()).hexdigest())


def seen(text: str, rows: list[int], view: Any = PLAIN) -> list[np.ndarray]:
    images = torch.zeros(len(rows), 3, SIZE, SIZE)
    return File(written(text)).of(VIEWS, np.array(rows), view)(images)


# --- which points an image has ---


def test_points_are_those_of_the_named_image(here: Path) -> None:
    text = "image,x,y,score,note\nd.png,1,2,0.5,\nNA,3,4,0.25,x\nd.png,5,6,0.75,\nNA,8,2,0.25,\ne.png,99,99,1,\n"
    first, second, third = seen(text, [0, 1, 2])
    np.testing.assert_array_equal(first, [[3, 4, 0.25], [8, 2, 0.25]])  # equal scores: as in the file
    assert second.shape == (0, 3) and first.dtype == second.dtype == np.float32
    # the crop shows 8 pixels from 0.5 on in 16
    np.testing.assert_allclose(third, [[8.5, 10.5, 0.75], [0.5, 2.5, 0.5]], atol=1e-6)
    again = seen(text, [2, 0])
    np.testing.assert_array_equal(again[0], third)
    np.testing.assert_array_equal(again[1], first)


def test_points_without_scores_stay_in_order(here: Path) -> None:
    (found,) = seen("x,y,image\n3,4,NA\n1,2,NA\n8,2,NA\n", [0])
    np.testing.assert_array_equal(found, [[3, 4, 1], [1, 2, 1], [8, 2, 1]])


def test_points_outside_of_the_crop_are_not_seen(here: Path) -> None:
    (found,) = seen("image,x,y\nNA,15.5,15.5\nNA,15.6,3\nNA,-0.5,-0.5\nNA,3,39\n", [0])
    np.testing.assert_array_equal(found[:, :2], [[15.5, 15.5], [-0.5, -0.5]])


def test_a_view_moves_points(here: Path) -> None:
    """In a mirror and enlarged twice about the centre, which is 7.5."""
    view: Any = SimpleNamespace(affine=coords.view(SIZE, mirror=True, scale=2), flipped=True)
    (found,) = seen("image,x,y\nNA,6,9\nNA,0,0\n", [0], view)
    np.testing.assert_allclose(found, [[10.5, 10.5, 1]], atol=1e-6)


def test_other_detectors_need_not_know_the_images() -> None:
    other = Classical(ClassicalParams("sift", 4, 1, 0.9))
    assert other.of(VIEWS, np.array([3]), PLAIN) is other


def test_rows_are_not_left_behind(here: Path) -> None:
    """The detector that `of` gives is another one, so that batches cannot be mixed up."""
    one = File(written("image,x,y\nNA,3,4\n"))
    one.of(VIEWS, np.array([0]), PLAIN)
    with pytest.raises(AssertionError, match="call `of` first"):
        one(torch.zeros(1, 3, SIZE, SIZE))


def test_places_are_described_as_by_classical(here: Path) -> None:
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    points = [np.array([[3, 4, 1], [9.5, 2, 1]], np.float32), np.empty((0, 3), np.float32)]
    found = File(written("image,x,y\nNA,3,4\n")).describe(images, points)
    want = Classical(ClassicalParams("orb", 4, 1, 0.9)).describe(images, points)
    assert found[0].shape == (2, 128) and len(found[1]) == 0
    np.testing.assert_array_equal(found[0], want[0])


# --- what is refused ---


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,x\nNA,1\n", r"points.csv needs the columns image,x,y and perhaps score: it has image,x, and lacks y"),
        ("image,x,y,y\nNA,1,2,3\n", "has the column 'y' twice"),
        ("image,x,y,score,score\nNA,1,2,3,4\n", "has the column 'score' twice"),
        ("image,x,y\n", "has no line below its header"),
        ("image,x,y\nNA,1,2\nNA,inf,2\n", r"line 3: the point of 'NA' needs finite x, y: correct or remove the line"),
        ("image,x,y\nNA,,\n", "line 2: .* An image without points has no line"),
        ("image,x,y\nNA,1,nan\n", "line 2: 'nan' in column y is no number: correct it"),
        ("image,x,y,score\nNA,1,2,\n", "line 2: .* needs finite x, y, score"),
        ("image,x,y\n,1,2\n", "line 2: a point without an image: name it, or remove the line"),
        ("image,x,y\nNA,1,2\nz.png,1,2\n", r"line 3: 'z.png' is no image of the data set: correct it \(a path below"),
        ("image,x,y\nb.png,39.6,2\n", r"line 2: \(39.6, 2\) lies outside the 40 x 50 pixels of 'b.png': give x and y"),
        ("image,x,y\nb.png,39.5,49.5\nc.png,-0.6,2\n", r"line 3: \(-0.6, 2\) lies outside .* remove the line"),
    ],
)
def test_unfit_lines_are_named(here: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        File(written(text))


def test_another_file_than_that_of_params(here: Path) -> None:
    right = written("image,x,y\nNA,1,2\n")
    with pytest.raises(DataError, match=rf"points.csv has the SHA-256 {right.sha256}, and params.yaml says '': put"):
        File(FileParams("points.csv", ""))
    (here / "points.csv").unlink()
    with pytest.raises(DataError, match=r"points.csv is missing: put the file of points there, or mend `path`"):
        File(right)
    (here / "points.csv").mkdir()
    with pytest.raises(DataError, match="is a folder where a file is expected"):
        File(right)


def test_stages_that_have_not_run(here: Path) -> None:
    right = written("image,x,y\nNA,1,2\n")
    (here / "artifacts/roi/boxes.csv").unlink()
    with pytest.raises(ArtifactError, match="run `dvc repro roi` first"):
        File(right)
    (here / "artifacts/data/index.csv").unlink()
    with pytest.raises(ArtifactError, match="run `dvc repro data` first"):
        File(right)


def test_the_block_is_closed() -> None:
    block = {"by": "file", "path": "points.csv", "sha256": "ab"}
    assert keypoints.chosen(block, "starts.one.train.keypoints")[1] == FileParams("points.csv", "ab")
    for wrong in (block | {"points": 3}, {"by": "file", "path": "points.csv"}, block | {"sha256": 7}):
        with pytest.raises(ParamsError, match=r"starts\.one\.train\.keypoints\.(points|sha256): "):
            keypoints.chosen(wrong, "starts.one.train.keypoints")


def test_code_lists_hold_what_reads_the_file() -> None:
    """Of a start that is taught by a file, and what describes its points."""
    tree = load("params.yaml")
    tree["starts"]["silk"]["train"]["keypoints"] = {"by": "file", "path": "points.csv", "sha256": "ab"}
    assert ("keypoints", "file") in opens("bootstrap", "silk", tree)
    listed = Code(ROOT).closure([str(Code(ROOT).entry("keypoints", "file"))])
    assert {"uld/keypoints/file.py", "uld/keypoints/classical.py", "uld/datasets/tables.py"} <= set(listed)
    assert not [name for name in listed if name.startswith("uld/commands/")]
