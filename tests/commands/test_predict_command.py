import csv
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld.artifacts.found import Found
from uld.base.errors import DataError
from uld.commands import predict, unfinished
from uld.detector import Detected
from uld.report import figures

K = 3


class FakeDetector:
    """Places landmark k at (width - 1, k); the last one is never detected, and a black photograph has no object."""

    count = K
    fingerprint = "of a fake"
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
    monkeypatch.setattr(predict.Detector, "load", lambda folder, open_outside: made)
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


def test_a_run_that_was_stopped_at_once_leaves_nothing(detector, uld, monkeypatch) -> None:
    def stop(images, ids):
        raise KeyboardInterrupt

    monkeypatch.setattr(detector, "detect", stop)
    assert uld("predict", "model", photo(Path("a.png"))).exit_code == 130
    assert [path.name for path in Path().iterdir()] == ["a.png"]


# --- a run that is stopped, and goes on ---


def stopping(detector: FakeDetector, after: int, stop: Callable[[], object]) -> Callable[..., Detected]:
    """Something happens in the batch behind so many."""

    def detect(images, ids):
        if len(detector.batches) == after:
            stop()
        return FakeDetector.detect(detector, images, ids)

    return detect


def kill() -> None:
    raise KeyboardInterrupt


def full() -> None:
    raise SystemExit(1)


STOPS: dict[str, Callable[[], object]] = {
    "SIGTERM": lambda: signal.raise_signal(signal.SIGTERM),
    "Ctrl-C": lambda: signal.raise_signal(signal.SIGINT),
    "twice": kill,
    "died": full,
}


@pytest.mark.parametrize("how", STOPS)
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(detector, uld, monkeypatch, how: str) -> None:
    for n in range(7):
        photo(Path(f"in/{n}.png"), 20 + n, 0 if n == 1 else 200)
    Path("in/3.png").write_bytes(b"no photograph")
    monkeypatch.setenv("ULD_BATCH", "2")
    whole = uld("predict", "model", "in", "--overlay", "drawn", "--out", "whole.csv")
    detector.batches.clear()
    monkeypatch.setattr(detector, "detect", stopping(detector, 2, STOPS[how]))
    stopped = uld("predict", "model", "in", "--overlay", "drawn")
    assert stopped.exit_code == (1 if how == "died" else 130)
    asked = how in ("SIGTERM", "Ctrl-C")
    assert ("interrupted: 6 of 7 images are kept; the same command goes on." in stopped.stderr) == asked
    assert not Path("landmarks.csv").exists()
    monkeypatch.setattr(detector, "detect", FakeDetector.detect.__get__(detector))
    detector.batches.clear()
    again = uld("predict", "model", "in", "--overlay", "drawn")
    assert f"going on after {6 if asked else 4} of 7 images" in again.stderr
    assert sum(detector.batches) == (1 if asked else 3)
    assert Path("landmarks.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert again.stdout == whole.stdout.replace("whole.csv", "landmarks.csv")
    assert again.exit_code == whole.exit_code == 2
    assert sorted(path.name for path in Path().iterdir()) == ["drawn", "in", "landmarks.csv", "whole.csv"]


@pytest.mark.parametrize("change", ["detector", "image", "option", "note"])
def test_rows_of_something_else_are_begun_anew(detector, uld, monkeypatch, change: str) -> None:
    for n in range(4):
        photo(Path(f"in/{n}.png"), 20 + n)
    monkeypatch.setenv("ULD_BATCH", "1")
    monkeypatch.setattr(detector, "detect", stopping(detector, 2, kill))
    assert uld("predict", "model", "in").exit_code == 130
    monkeypatch.setattr(detector, "detect", FakeDetector.detect.__get__(detector))
    if change == "detector":
        monkeypatch.setattr(detector, "fingerprint", "of another")
    if change == "image":
        photo(Path("in/0.png"), 50)
    if change == "note":
        next(Path().glob(".uld-*/done.json")).write_text("{")
    detector.batches.clear()
    again = uld("predict", "model", "in", *(["--detected"] if change == "option" else []))
    said = "beginning anew: what was begun of landmarks.csv is of another detector, other images or options\n"
    assert (again.exit_code, again.stderr) == (0, said)
    assert detector.batches == [1] * 4
    assert len(read()) == 4 * K


def test_rows_behind_the_last_note_are_dropped(detector, uld, monkeypatch) -> None:
    for n in range(3):
        photo(Path(f"in/{n}.png"), 20 + n)
    monkeypatch.setenv("ULD_BATCH", "1")
    monkeypatch.setattr(detector, "detect", stopping(detector, 2, kill))
    uld("predict", "model", "in")
    with next(Path().glob(".uld-*/rows.csv")).open("a") as file:
        file.write("in/2.png,0,half a li")
    monkeypatch.setattr(detector, "detect", FakeDetector.detect.__get__(detector))
    assert uld("predict", "model", "in").exit_code == 0
    assert read()["image"].tolist() == np.repeat([f"in/{n}.png" for n in range(3)], K).tolist()


def test_two_runs_at_the_same_file(detector, uld) -> None:
    photo(Path("a.png"))
    with unfinished.rows_of(Path("landmarks.csv")):
        assert "another process writes landmarks.csv: wait" in uld("predict", "model", "a.png").stderr
    assert Path("landmarks.csv").read_bytes() == b""


# --- one photograph or picture that fails ---


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("odd size"), DataError("no box there")])
def test_an_image_that_fails_costs_no_other(detector, uld, monkeypatch, error: Exception) -> None:
    for n in range(4):
        photo(Path(f"in/{n}.png"), 20 + n)

    def detect(images, ids):
        if "in/2.png" in ids:
            raise error
        return FakeDetector.detect(detector, images, ids)

    monkeypatch.setattr(detector, "detect", detect)
    done = uld("predict", "model", "in", "--overlay", "drawn")
    assert done.exit_code == 2
    assert "failed: in/2.png: " in done.stderr
    assert "1 of 4 images ended in an error, which the column `reason` tells" in done.stderr
    assert detector.batches == [1, 1, 0, 1]
    table = read().groupby("image")
    assert table["x"].count().to_dict() == {f"in/{n}.png": K * (n != 2) for n in range(4)}
    reason = table["reason"].first()["in/2.png"]
    assert reason == (str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}")
    assert len(list(Path("drawn").iterdir())) == 3


@pytest.mark.parametrize("how", ["full disk", "a folder there", "drawing"])
def test_a_picture_that_fails_costs_nothing_else(detector, uld, monkeypatch, how: str) -> None:
    for n in range(3):
        photo(Path(f"in/{n}.png"), 20 + n)
    Path("drawn/1.png.png" if how == "a folder there" else "drawn").mkdir(parents=True)
    plain, calls = figures.png, []

    def png(image):
        calls.append(image)
        if len(calls) == 2:
            raise OSError(28, "No space left on device") if how == "full disk" else MemoryError
        return plain(image)

    if how != "a folder there":
        monkeypatch.setattr(figures, "png", png)
    done = uld("predict", "model", "in", "--overlay", "drawn")
    assert done.exit_code == 2
    assert done.stderr.count("warning: no picture of in/1.png: ") == 1
    assert "1 of 3 pictures could not be drawn or written; all landmarks are in the CSV" in done.stderr
    assert read()["x"].count() == 3 * K
    assert sorted(path.name for path in Path("drawn").iterdir() if path.is_file()) == ["0.png.png", "2.png.png"]


# --- names ---

ODD = [
    "=1+1.png",
    "a,b.png",
    'q"q.png',
    "new\nline.png",
    "car\rriage.png",
    "\x1b[31mred.png",
    "'.png",
    " a .png",
    "ä漢.png",
]


def test_names_come_back_from_the_csv(detector, uld) -> None:
    for name in ODD:
        photo(Path("in") / name)
    Path("in/\x1b[2J.png").touch()
    done = uld("predict", "model", "in")
    assert "\x1b" not in done.stderr and "unreadable: in/\\x1b[2J.png: " in done.stderr
    names = sorted(f"in/{name}" for name in [*ODD, "\x1b[2J.png"])
    assert sorted(read()["image"].unique()) == names
    with Path("landmarks.csv").open(newline="", encoding="utf-8") as file:
        assert sorted({line["image"] for line in csv.DictReader(file)}) == names
    assert pd.read_csv("landmarks.csv").shape == (K * len(names), len(predict.COLUMNS))


def test_a_name_that_is_no_text_is_spelt_out(detector, uld) -> None:
    photo(Path("a.png")).rename(os.fsdecode(b"\xff.png"))
    assert uld("predict", "model", os.fsdecode(b"\xff.png"), "--overlay", "drawn").exit_code == 0
    assert read()["image"].unique().tolist() == ["\\udcff.png"]
    assert len(list(Path("drawn").iterdir())) == 1


@pytest.mark.parametrize("length", [240, 251, 252, 255])
def test_long_names(detector, uld, length: int) -> None:
    name = "ä" * ((length - 4) // 2) + "x" * (length % 2) + ".png"
    photo(Path("a.png")).rename(name)
    out = "o" * 251 + ".csv"
    done = uld("predict", "model", name, "--overlay", "drawn", "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    (drawn,) = Path("drawn").iterdir()
    assert (drawn.name == f"{name}.png") == (length <= 251)
    assert read(out)["image"].unique().tolist() == [name]


# --- places that are refused before any work ---


def test_places_that_are_refused(detector, uld, monkeypatch) -> None:
    photo(Path("in/a.png"))
    Path("file").write_text("text")
    Path("folder").mkdir()
    Path("link").symlink_to("file")
    Path("dangling").symlink_to("nowhere")
    os.mkfifo("pipe")
    os.link("in/a.png", "linked.csv")
    for out, said in {
        "/dev/full": "is a device or a pipe",
        "pipe": "is a device or a pipe",
        "link": "is a symbolic link",
        "dangling": "is a symbolic link",
        "folder": "is a folder",
        "file/x.csv": "is no folder",
        "linked.csv": "is one of the inputs (in/a.png)",
        "in/b.png": "is named like a picture",
        "x" * 256: "has more than 255 bytes",
    }.items():
        done = uld("predict", "model", "in", "--out", out)
        assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1, out
    for overlay, said in {
        "file": "is no folder",
        "file/x": "is no folder",
        "in/drawn": "lies in in",
        "in": "lies in in",
    }.items():
        done = uld("predict", "model", "in", "--overlay", overlay)
        assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1, overlay
    assert uld("predict", "model", "in", "--overlay", "in/.drawn").exit_code == 0
    monkeypatch.setattr(os, "access", lambda place, mode: not mode & os.W_OK)
    assert "may not be written to" in uld("predict", "model", "in", "--out", "new/x.csv").stderr
    assert not detector.batches[1:]
    assert Path("file").read_text() == "text" and not Path("nowhere").exists()


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
    assert "detector.json is missing: run `dvc repro -f predict@" in done.stderr


def test_a_folder_without_images_is_an_error_before_any_work(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(DataError, match="sub holds no image"):
        predict.collect([photo(tmp_path / "a.png"), tmp_path / "sub"])
