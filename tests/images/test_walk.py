"""The walk of a folder: what it finds, what it refuses, and what it says of the rest."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tests.images.rights import nobody, open_folder
from uld.artifacts.files import read_table, write_table
from uld.base import given
from uld.base.errors import DataError
from uld.commands import predict
from uld.datasets import splits
from uld.datasets.folder import Folder, FolderParams
from uld.datasets.folder import walk as ids
from uld.datasets.index import build
from uld.images import decode
from uld.images.walk import walk
from uld.roi import Context
from uld.roi.boxes import Boxes, BoxesParams


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in (
        "a.png",
        "d/b.JPG",
        "d/e/c.tiff",
        ".hidden/x.png",
        "d/.h.png",
        "notes.txt",
        "split.csv",
        "d/split.csv",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def shared() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


ALL = ["a.png", "d/b.JPG", "d/e/c.tiff"]


def refused(folder: Path) -> str:
    """The one line that every walk says."""
    said = []
    for run in (lambda: walk(folder), lambda: ids(folder), lambda: predict.collect([folder])):
        with pytest.raises(DataError) as caught:
            run()
        said.append(str(caught.value))
    assert len(set(said)) == 1 and "\n" not in said[0], said
    return said[0]


def test_both_walks_find_the_same(photos: Path) -> None:
    found, others = walk(photos, lambda name: name == "split.csv")
    assert sorted(found) == ALL and others == 2
    assert ids(photos).tolist() == ALL
    assert sorted(predict.collect([photos])) == [photos / name for name in ALL]


# --- folders and links ---


def test_a_folder_that_may_not_be_read(shared: Path) -> None:
    (shared / "in/locked").mkdir(parents=True)
    (shared / "in/a.png").touch()
    (shared / "in/locked").chmod(0)
    with nobody():
        said = refused(shared / "in")
    assert said == (
        f"{shared}/in/locked: cannot be entered (Permission denied): let it be read, as by `chmod u+rx`, or hide it by "
        "a dot."
    )


def test_a_folder_behind_one_that_may_not_be_entered(shared: Path) -> None:
    (shared / "locked/far").mkdir(parents=True)
    (shared / "in").mkdir()
    (shared / "in/link").symlink_to("../locked/far")
    (shared / "locked").chmod(0)
    with nobody():
        assert "in/link: cannot be entered (Permission denied): let it be read" in refused(shared / "in")
        with pytest.raises(DataError, match="in/link: cannot be entered"):
            walk(shared / "in/link")


def test_a_folder_that_vanishes_meanwhile(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: object) -> None:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(os, "scandir", gone)
    assert "photos: cannot be entered (Input/output error)" in refused(photos)


def test_links_to_folders_are_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "far/deep/z.png").touch()
    (photos / "link.png").symlink_to(tmp_path / "far")  # whatever its name
    assert ids(photos).tolist() == [*ALL, "link.png/deep/z.png"]


def test_a_folder_is_read_once(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under its real name if it has one below the folder, else under the first one."""
    (photos / "0").symlink_to("d")
    (tmp_path / "far").mkdir()
    (tmp_path / "far/z.png").touch()
    (photos / "y").symlink_to(tmp_path / "far")
    (photos / "x").symlink_to(tmp_path / "far")
    assert ids(photos).tolist() == [*ALL, "x/z.png"]
    assert f"{photos}/0: is read under another name already and passed over." in caplog.text
    assert f"{photos}/y: is read under another name already and passed over." in caplog.text


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../../photos"])
def test_loops_are_refused(photos: Path, target: str) -> None:
    (photos / "d/loop").symlink_to(target)
    said = refused(photos)
    assert "photos/d/loop: is a link to /" in said and said.endswith("a folder that holds it: remove the link.")


def test_two_links_that_lead_to_each_other(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "far").mkdir()
    (photos / "to").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(photos)
    assert ids(photos).tolist() == ALL
    assert "to/back: is read under another name already" in caplog.text


def test_links_that_lead_nowhere(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "self.png").symlink_to("self.png")
    (photos / "disk").symlink_to("/nowhere")
    assert ids(photos).tolist() == [*ALL, "gone.png", "self.png"]
    assert f"{photos}/disk: is a link that leads nowhere: mend or remove it" in caplog.text
    for name in ("gone.png", "self.png"):
        with pytest.raises(DataError, match=rf"{name}: cannot be opened .*: the link leads nowhere: mend or remove it"):
            decode.decode(photos / name)


# --- what is no file ---


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


SPECIAL = {pipe: "a named pipe", bound: "a socket", device: "a device", linked_pipe: "a named pipe"}


@pytest.mark.parametrize(("make", "what"), SPECIAL.items())
def test_special_files_are_refused_and_never_opened(
    photos: Path, make, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)  # names of sockets are short
    make(Path("s.png"))
    assert refused(photos) == f"{photos}/s.png: is {what} and no image: remove it, or hide it by a dot."
    with pytest.raises(DataError, match=f"s.png: is {what} where a file is expected: move or rename it"):
        decode.decode(Path("s.png"))
    assert predict.collect([Path("s.png")]) == [Path("s.png")]  # the command says of each file whether it can be read


@pytest.mark.parametrize("make", SPECIAL)
def test_special_files_of_other_names_are_others(photos: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    before = walk(photos)[1]
    make(Path("s.txt"))
    assert walk(photos)[1] > before


USER_FILES = ("split.csv", "landmarks.csv", "landmarks-eyes.csv", "coco.json", "coco-fur.json", "boxes.csv")


def read_user_file(folder: Path, name: str) -> None:
    dataset = Folder(folder, FolderParams(test=0.2, max_bad=0.5, subset=None, normaliser={}))
    if name == "boxes.csv":
        Boxes(BoxesParams(file=name), Context(folder, folder))
    elif name == "split.csv":
        dataset.files()
    else:
        dataset.annotations(pd.DataFrame({"image": ["a.png"], "width": 9, "height": 9, "status": "ok"}))


@pytest.mark.parametrize("name", USER_FILES)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a folder where a file is expected: move or rename it"),
        (pipe, "is a named pipe where a file is expected: move or rename it"),
        (device, "is a device where a file is expected: move or rename it"),
        (lambda path: path.symlink_to("nowhere"), "cannot be opened .*: the link leads nowhere: mend or remove it"),
        (lambda path: path.symlink_to(path), "cannot be opened .*: the link leads nowhere: mend or remove it"),
    ],
)
def test_files_of_the_user_are_never_absent_because_they_cannot_be_read(
    photos: Path, name: str, make, words: str
) -> None:
    (photos / "split.csv").unlink()
    make(photos / name)
    with pytest.raises(DataError, match=f"^[^\n]*{name}: {words}[^\n]*$"):
        read_user_file(photos, name)


@pytest.mark.parametrize("name", [*USER_FILES, "a.png"])
def test_a_locked_file_is_not_said_to_be_damaged(shared: Path, name: str) -> None:
    (shared / "a.png").touch()
    (shared / name).touch()
    (shared / name).chmod(0)
    with nobody(), pytest.raises(DataError) as caught:
        decode.decode(shared / name) if name == "a.png" else read_user_file(shared, name)
    assert str(caught.value) == (
        f"{shared / name}: cannot be opened (Permission denied): let it be read, as by `chmod u+r`; it may be sound."
    )


def test_a_name_that_is_none() -> None:
    with pytest.raises(DataError, match=r"'a\\x00b': is no name of a file \(embedded null byte\): correct it"):
        given.content(Path("a\0b"))
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(DataError, match="is no folder: set `source`"):
            walk(Path(name))


# --- names ---


def unnamed(folder: Path) -> str:
    """What is said of a name that no table of the pipeline can hold; `uld predict` takes it."""
    assert predict.collect([folder])
    with pytest.raises(DataError) as caught:
        ids(folder)
    return str(caught.value)


@pytest.mark.parametrize("bad", ["\r", "\n", "\t", "\x1b[31m", "\x7f", "\x85", "\x01"])
@pytest.mark.parametrize("where", ["a{}b.png", "d{}/b.png"])
def test_control_characters_are_refused_and_shown(tmp_path: Path, bad: str, where: str) -> None:
    path = tmp_path / "in" / where.format(bad)
    path.parent.mkdir(parents=True)
    path.touch()
    said = unnamed(tmp_path / "in")
    assert f"{where.format(bad)!r} has control characters: rename" in said and bad not in said


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).touch()
    assert r"'caf\udce9.png' is not UTF-8: rename" in unnamed(tmp_path / "in")


ODD = [
    "=1+1.png",
    " a.png",
    "  b .png",
    "'c.png",
    '"d".png',
    "e,f.png",
    "-g.png",
    "@h.png",
    "NA.png",
    "ü.png",
]
ODD += [
    "u\u0308.png",
    "\u2028.png",
    "#i.png",
    "\\j.png",
    "%20.png",
    "$(k).png",
    "1e5.png",
    "\ufeffl.png",
    "=d/ x/m.png",
    "`n`.png",
]


def test_odd_names_survive_every_table(tmp_path: Path) -> None:
    for n, name in enumerate(ODD):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        image = np.full((9, 9 + n, 3), n, np.uint8)
        (tmp_path / "in" / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    quoted = [f'"{name}"'.replace('"d"', '""d""') for name in ODD]
    (tmp_path / "in/boxes.csv").write_text("image,x1,y1,x2,y2\n" + "".join(f"{name},0,0,5,5\n" for name in quoted))
    split = "".join(f"{name},{'test' if n % 2 else 'train'}\n" for n, name in enumerate(quoted))
    (tmp_path / "in/split.csv").write_text("image,split\n" + split)
    index, _ = build(Folder(tmp_path / "in", FolderParams(test=0.2, max_bad=0.0, subset=None, normaliser={})), 0)
    write_table(tmp_path / "index.csv", index)
    back = read_table(tmp_path / "index.csv", "data")
    assert back["image"].tolist() == sorted(ODD) and (back["status"] == "ok").all()
    boxes = Boxes(BoxesParams(file="boxes.csv"), Context(tmp_path / "in", tmp_path))
    assert None not in boxes.detect([np.zeros((1, 1, 3), np.uint8)] * len(ODD), back["image"].tolist())
    write_table(tmp_path / "boxes.csv", back.rename(columns={"width": "x1"}))
    assert read_table(tmp_path / "boxes.csv", "roi")["image"].tolist() == sorted(ODD)
    again = splits.from_csv(tmp_path / "in/split.csv", back["image"].to_numpy(object))
    assert again["image"].tolist() == sorted(ODD)
