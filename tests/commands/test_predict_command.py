from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld.artifacts.found import Found
from uld.base.errors import DataError
from uld.commands import predict
from uld.detector import Detected
from uld.report import figures

K = 3


class FakeDetector:
    """Places landmark k at (width - 1, k); the last one is never detected, and a black photograph has no object."""

    count = K
    batches: list[int]

    def __init__(self) -> None:
        self.batches = []

    def detect(self, images, ids):
        self.batches.append(len(images))
        dense = np.array([[[im.shape[1] - 1, k] for k in range(K)] for im in images], np.float32).reshape(-1, K, 2)
        boxes = np.array([[-0.5, -0.5, im.shape[1] - 0.5, im.shape[0] - 0.5] for im in images]).reshape(-1, 4)
        black = np.array([not im.any() for im in images], bool)
        dense[black], boxes[black] = np.nan, np.nan
        xy, score = dense.copy(), np.where(np.isnan(dense[..., 0]), np.nan, 0.5).astype(np.float32)
        xy[:, -1] = np.nan
        return Detected(Found(xy, np.where(np.isnan(xy[..., 0]), np.nan, score), dense, score), boxes)


def photo(path: Path, width: int = 20, value: int = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((10, width, 3), value, np.uint8))
    return path


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDetector:
    made = FakeDetector()
    monkeypatch.setattr(predict.Detector, "load", lambda folder: made)
    monkeypatch.chdir(tmp_path)
    return made


def read(path: str = "landmarks.csv") -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_a_line_for_each_image_and_landmark(detector, uld) -> None:
    photo(Path("in/a.png"), 20)
    photo(Path("in/deep/er/b.jpg"), 30)
    photo(Path("in/.hidden/c.png"))
    Path("in/notes.txt").write_text("no image")
    done = uld("predict", "model", "in", photo(Path("one.bmp"), 40), "in/a.png")
    assert done.exit_code == 0
    table = read()
    assert list(table.columns) == predict.COLUMNS
    assert table["image"].tolist() == np.repeat(["in/a.png", "in/deep/er/b.jpg", "one.bmp"], K).tolist()
    assert table["x"].tolist() == np.repeat([19, 29, 39], K).tolist()
    assert table["y"].tolist() == [*range(K)] * 3
    assert table["found"].tolist() == ["detected", "detected", "dense"] * 3
    assert table["x2"].tolist() == np.repeat([19.5, 29.5, 39.5], K).tolist()
    assert table["reason"].isna().all()
    assert "3 images" in done.stdout


def test_detections_are_given_as_they_are_and_only_gaps_are_filled(detector, uld, monkeypatch) -> None:
    plain = detector.detect

    def detect(images, ids):
        found = plain(images, ids)
        marks = found.landmarks
        moved = replace(marks, dense_xy=marks.dense_xy + 5, dense_score=marks.dense_score + 0.25)
        return replace(found, landmarks=moved)

    monkeypatch.setattr(detector, "detect", detect)
    path = photo(Path("a.png"))
    assert uld("predict", "model", path, "--overlay", "drawn").exit_code == 0
    table = read()
    assert table[["x", "y", "score"]].to_numpy().tolist() == [[19, 0, 0.5], [19, 1, 0.5], [24, 7, 0.75]]
    assert table["found"].tolist() == ["detected", "detected", "dense"]
    drawn = cv2.imread("drawn/a.png.png")[:, :, ::-1]
    points = np.array([[19, 0], [19, 1], [24, 7]], np.float32)
    assert np.array_equal(drawn, figures.overlay(np.full((10, 20, 3), 200, np.uint8), points, 2.0))


def test_only_what_is_detected(detector, uld) -> None:
    assert uld("predict", "model", photo(Path("a.png")), "--detected", "--out", "sub/x.csv").exit_code == 0
    last = read("sub/x.csv").iloc[-1]
    assert np.isnan(last["x"])
    assert np.isnan(last["score"])
    assert last["reason"] == "not detected"


def test_unreadable_images_are_named_and_the_others_go_on(detector, uld) -> None:
    photo(Path("in/a.png"))
    photo(Path("in/black.png"), value=0)
    Path("in/empty.png").touch()
    Path("in/broken.jpg").write_bytes(b"\xff\xd8 no photograph")
    done = uld("predict", "model", "in", "gone.png")
    assert done.exit_code == 2
    assert "3 of 5 images could not be read" in done.stderr
    for name in ("in/empty.png", "in/broken.jpg", "gone.png"):
        assert f"unreadable: {name}: " in done.stderr
    lines = read().groupby("image")
    assert (lines.size() == K).all()
    assert lines["x"].count().to_dict() == {
        "in/a.png": K,
        "in/black.png": 0,
        "in/broken.jpg": 0,
        "in/empty.png": 0,
        "gone.png": 0,
    }
    reasons = lines["reason"].first()
    assert reasons["in/black.png"] == "no object box"
    assert "0 bytes" in reasons["in/empty.png"]


def test_all_unreadable(detector, uld) -> None:
    assert uld("predict", "model", "gone.png").exit_code == 2
    assert len(read()) == K


@pytest.mark.parametrize("limit", ["images", "bytes"])
def test_batches_are_bounded_and_do_not_change_the_result(detector, uld, monkeypatch, limit: str) -> None:
    for n in range(7):
        photo(Path(f"in/{n}.png"), 20 + n)
    uld("predict", "model", "in", "--out", "whole.csv")
    if limit == "images":
        monkeypatch.setenv("ULD_BATCH", "2")
    else:
        monkeypatch.setattr(predict, "PIXELS", 1000)  # a photograph here has 600 to 780 bytes
    detector.batches.clear()
    uld("predict", "model", "in", "--out", "parts.csv")
    assert detector.batches == [2, 2, 2, 1]
    assert Path("parts.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_overlays_keep_their_folders(detector, uld) -> None:
    photo(Path("in/x/a.png"))
    photo(Path("in/y/a.png"), 30)
    photo(Path("in/y/a.bmp"), 40)
    Path("in/y/b.png").touch()
    uld("predict", "model", "in/x", "in/y", "--overlay", "drawn")
    found = sorted(path.relative_to("drawn").as_posix() for path in Path("drawn").rglob("*") if path.is_file())
    assert found == ["x/a.png.png", "y/a.bmp.png", "y/a.png.png"]
    drawn = cv2.imread("drawn/y/a.bmp.png")[:, :, ::-1]
    plain = np.full((10, 40, 3), 200, np.uint8)
    assert np.array_equal(drawn, figures.overlay(plain, np.array([[39, 0], [39, 1], [39, 2]], np.float32), 2.0))


def test_a_stopped_run_leaves_no_half_file(detector, uld, monkeypatch) -> None:
    def stop(images, ids):
        raise KeyboardInterrupt

    monkeypatch.setattr(detector, "detect", stop)
    assert uld("predict", "model", photo(Path("a.png"))).exit_code == 130
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_mistakes(detector, uld, monkeypatch) -> None:
    Path("empty").mkdir()
    photo(Path("a.png"))
    assert "empty holds no image" in uld("predict", "model", "empty").stderr
    assert "is a folder" in uld("predict", "model", "a.png", "--out", "empty").stderr
    monkeypatch.setattr(detector, "count", 0, raising=False)
    assert "K = 0" in uld("predict", "model", "a.png").stderr


def test_no_detector(tmp_path, uld) -> None:
    done = uld("predict", tmp_path, photo(tmp_path / "a.png"))
    assert done.exit_code == 2
    assert "detector.json is missing: run `dvc repro predict`" in done.stderr


def test_a_folder_without_images_is_an_error_before_any_work(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="sub holds no image"):
        predict.collect([photo(tmp_path / "a.png"), tmp_path / "sub"])
