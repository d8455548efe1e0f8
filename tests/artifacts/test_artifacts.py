"""Files that cross stages: what is written comes back, twice the same, whole or not at all."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from uld.artifacts.annotations import Annotations, AnnotationSet, read_annotations, write_annotations
from uld.artifacts.files import read_arrays, read_json, read_table, write_arrays, write_json, write_table
from uld.artifacts.found import Found
from uld.artifacts.labels import Labels, read_labels, write_labels
from uld.artifacts.landmarks import Landmarks, PoseCentroids, read_landmarks, write_landmarks
from uld.artifacts.predictions import Predictions, Warped, read_predictions, write_predictions
from uld.base.errors import ArtifactError

IDS = ["a/b c.png", "größe/日本.png", "001.png", "NA", "7"]


def landmarks(count: int = 3, dims: int = 4, kept: int = 2) -> Landmarks:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 99, (count, kept, 2)).astype(np.float32)
    xy[:1, -1:] = np.nan
    return Landmarks(
        rng.standard_normal((count, dims)).astype(np.float32),
        np.arange(count),
        np.full((count, kept), -1),
        xy,
        rng.standard_normal((6 if count else 0, dims)).astype(np.float16),
        np.arange(6 if count else 0),
    )


def predictions(images: int, count: int, warps: int = 2) -> Predictions:
    rng = np.random.default_rng(1)
    dense = rng.uniform(0, 99, (images, count, 2)).astype(np.float32)
    score = rng.uniform(0, 1, (images, count)).astype(np.float32)
    holes = dense.copy()
    holes[::3] = np.nan
    names = np.array([f"größe/{n:06d}.png" for n in range(images)], dtype=object)
    split = np.array(["train", "test"], dtype=object)[np.arange(images) % 2]
    rows = np.flatnonzero(split == "test")
    warped = Warped(rows, rng.uniform(0, 99, (len(rows), warps, count, 2)).astype(np.float32))
    return Predictions(names, split, Found(holes, score, dense, score), warped)


PARTS = (PoseCentroids, Found, Warped, dict)


def _opened(value: object) -> object:
    return SimpleNamespace(**value) if isinstance(value, dict) else value


def same(one: object, two: object) -> None:
    assert vars(one).keys() == vars(two).keys()
    for name, value in vars(one).items():
        other = vars(two)[name]
        if value is None or isinstance(value, PARTS):
            assert type(value) is type(other), name
            if value is not None:
                same(_opened(value), _opened(other))
            continue
        if isinstance(value, int):
            assert type(other) is int and value == other, name
            continue
        assert value.shape == other.shape, name
        assert value.dtype == other.dtype, name
        np.testing.assert_array_equal(value, other, err_msg=name)


# --- HDF5 ---


@pytest.mark.parametrize("count", [0, 3])
def test_landmarks_come_back(tmp_path: Path, count: int) -> None:
    plain = landmarks(count, 4 if count else 0, 2 if count else 0)
    for want in (plain, replace(plain, mirror=np.arange(count))):
        write_landmarks(tmp_path / "landmarks.h5", want)
        same(want, read_landmarks(tmp_path / "landmarks.h5"))


def test_poses_come_back(tmp_path: Path) -> None:
    poses = PoseCentroids(*(np.full(shape, i, np.float32) for i, shape in enumerate([(2, 5), (2, 3, 4)])), np.arange(2))
    for places in (None, np.ones((2, 2, 3, 2), np.float32)):
        want = replace(landmarks(3, 4, 2), poses=replace(poses, places=places))
        write_landmarks(tmp_path / "landmarks.h5", want)
        same(want, read_landmarks(tmp_path / "landmarks.h5"))
    plain = predictions(7, 5)
    margin = np.linspace(0, 1, 7, dtype=np.float32)
    posed = replace(plain, found=replace(plain.found, points=np.arange(7), pose=np.arange(7), pose_margin=margin))
    write_predictions(tmp_path / "p.h5", posed)
    same(posed, read_predictions(tmp_path / "p.h5"))
    number, score = np.arange(4), np.zeros(4, np.float32)
    own = {"pose": number, "confidence": score, "look": np.ones((4, 3), np.float16)}
    labels = Labels(number, number > 0, number, np.zeros((4, 2), np.float32), score, number > 1, 4, own)
    write_labels(tmp_path / "l.h5", labels)
    same(labels, read_labels(tmp_path / "l.h5"))


@pytest.mark.parametrize(("images", "count"), [(7, 5), (7, 0), (1, 1), (0, 4)])
def test_predictions_come_back(tmp_path: Path, images: int, count: int) -> None:
    want = predictions(images, count)
    write_predictions(tmp_path / "p.h5", want)
    got = read_predictions(tmp_path / "p.h5")
    same(want, got)
    assert all(type(name) is str for name in got.images)


@pytest.mark.parametrize("points", [0, 5])
def test_labels_come_back(tmp_path: Path, points: int) -> None:
    xy = np.arange(2.0 * points).reshape(points, 2).astype(np.float32)
    number = np.arange(points)
    score = np.linspace(0, 1, points, dtype=np.float32)
    want = Labels(number, number > 2, number % 2, xy, score, number % 3 == 0, 7)
    write_labels(tmp_path / "labels.h5", want)
    same(want, read_labels(tmp_path / "labels.h5"))


def test_what_labels_of_an_image_share() -> None:
    image, flipped = np.array([1, 1, 4, 7, 4]), np.array([False, False, False, False, True])
    own = {"pose": np.array([3, 3, 0, 2, 5])}
    xy, score = np.zeros((5, 2), np.float32), np.zeros(5, np.float32)
    labels = Labels(image, flipped, np.array([0, 6, 1, 1, 0]), xy, score, flipped, 7, own)
    assert labels.own_of("pose", np.array([1, 2, 4]), flipped=False).tolist() == [3, -1, 0]
    assert labels.own_of("pose", np.array([1, 2, 4]), flipped=True).tolist() == [-1, -1, 5]
    assert labels.own_of("sex", np.array([1, 4]), flipped=False).tolist() == [-1, -1]


def test_annotations_come_back(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).uniform(0, 9, (len(IDS), 5, 2)).astype(np.float32)
    xy[1, 2] = np.nan
    want = Annotations(
        np.array(IDS, dtype=object), {"p5": AnnotationSet(xy, (0,), (1, 2)), "ears": AnnotationSet(xy[:, :2])}
    )
    write_annotations(tmp_path / "a.h5", want)
    got = read_annotations(tmp_path / "a.h5")
    assert got.images.tolist() == IDS
    assert sorted(got.sets) == ["ears", "p5"]
    for name, one in want.sets.items():
        np.testing.assert_array_equal(got.sets[name].xy, one.xy)
        assert (got.sets[name].left, got.sets[name].right) == (one.left, one.right)


def test_no_annotations_come_back_as_none(tmp_path: Path) -> None:
    write_annotations(tmp_path / "a.h5", Annotations(np.array([], dtype=object)))
    got = read_annotations(tmp_path / "a.h5")
    assert got.images.shape == (0,)
    assert got.sets == {}


def test_arrays_with_nested_names_come_back(tmp_path: Path) -> None:
    want = {"canonical/p68/all/forward": np.arange(6.0).reshape(1, 3, 2), "n": np.array([3])}
    write_arrays(tmp_path / "r.h5", want)
    got = read_arrays(tmp_path / "r.h5", "regress")
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for n in range(3):
        folder = tmp_path / str(n)
        write_predictions(folder / "p.h5", predictions(50, 4))
        write_landmarks(folder / "l.h5", landmarks())
        write_json(
            folder / "m.json", {"b": 1.0, "a": {"d": 2, "c": [0.1]}} if n else {"a": {"c": [0.1], "d": 2}, "b": 1.0}
        )
        write_table(folder / "t.csv", pd.DataFrame({"image": IDS, "x": np.arange(5) / 3}))
        time.sleep(1.1 if n == 0 else 0)  # a clock in a file would show
    for name in ("p.h5", "l.h5", "m.json", "t.csv"):
        assert len({(tmp_path / str(n) / name).read_bytes() for n in range(3)}) == 1, name


def test_a_hundred_thousand_ids_are_quick(tmp_path: Path) -> None:
    want = predictions(100_000, 1, 1)
    start = time.process_time()
    write_predictions(tmp_path / "p.h5", want)
    got = read_predictions(tmp_path / "p.h5")
    assert time.process_time() - start < 5
    assert got.images[99_999] == want.images[99_999]


def test_a_damaged_file_names_its_stage(tmp_path: Path) -> None:
    (tmp_path / "p.h5").write_bytes(b"no HDF5")
    with pytest.raises(ArtifactError, match=r"p.h5 is no readable HDF5 file: delete it and run `dvc repro predict`"):
        read_predictions(tmp_path / "p.h5")
    with pytest.raises(ArtifactError, match=r"q.h5 is missing: run `dvc repro predict` first"):
        read_predictions(tmp_path / "q.h5")


# --- text ---


def test_tables_come_back(tmp_path: Path) -> None:
    want = pd.DataFrame({"image": IDS, "x": [1.5, np.nan, 1e-7, 123456.7, -2.0], "n": range(5)})
    write_table(tmp_path / "t.csv", want)
    got = read_table(tmp_path / "t.csv", "roi")
    assert got["image"].tolist() == IDS
    np.testing.assert_allclose(got["x"], want["x"], rtol=1e-5)
    assert got["n"].dtype.kind == "i"
    assert (tmp_path / "t.csv").read_bytes().endswith(b"7,-2,4\n")


def test_an_empty_cell_is_absent_but_a_name_is_a_name(tmp_path: Path) -> None:
    """A person called NA stays one; only nothing at all is unknown."""
    write_table(tmp_path / "t.csv", pd.DataFrame({"image": ["a", "b", "c"], "group": ["NA", "", "null"]}))
    got = read_table(tmp_path / "t.csv", "data", text=("image", "group"))
    assert got["group"].fillna("").tolist() == ["NA", "", "null"]


def test_json_is_plain_and_rounded(tmp_path: Path) -> None:
    tree = {"b": np.float32(0.1), "a": {"n": np.int64(3), "yes": np.bool_(True), "none": None, "list": (1, 2.00000049)}}
    write_json(tmp_path / "m.json", tree)
    got = read_json(tmp_path / "m.json", "evaluate")
    assert got == {"a": {"list": [1, 2.0], "n": 3, "none": None, "yes": True}, "b": 0.1}
    assert got["a"]["yes"] is True
    assert list(json.loads((tmp_path / "m.json").read_text())) == ["a", "b"]


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), -np.inf])
def test_json_refuses_what_is_not_finite(tmp_path: Path, value: float) -> None:
    with pytest.raises(ArtifactError, match=r"m.json: value .* at .p68.forward\[1\] is not finite"):
        write_json(tmp_path / "m.json", {"p68": {"forward": [0.1, value]}})
    assert not list(tmp_path.iterdir())
