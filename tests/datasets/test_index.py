"""The index of a folder of photographs, good and bad."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld import datasets
from uld.artifacts.annotations import Annotations
from uld.artifacts.files import write_table
from uld.artifacts.index import read_index
from uld.base import params
from uld.base.errors import DataError, ParamsError
from uld.datasets.folder import Folder, FolderParams
from uld.datasets.index import build as build_index
from uld.datasets.subset import SubsetParams
from uld.evaluate.yaw import of_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / "in" / f"day{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (12, 15 + i, 3), dtype=np.uint8))
    return tmp_path / "in"


def build(
    folder: Path, max_bad: float = 0.3, test: float = 0.2, seed: int = 0, subset: SubsetParams | None = None
) -> tuple[pd.DataFrame, Annotations]:
    return build_index(Folder(folder, FolderParams(test=test, max_bad=max_bad, subset=subset, normaliser={})), seed)


def test_index_of_good_photographs(photos: Path) -> None:
    index, annotations = build(photos)
    assert index["image"].is_monotonic_increasing and index["image"][0] == "day0/0.png"
    assert index["width"][0] == 15 and (index["height"] == 12).all() and index["sha256"].str.len().eq(64).all()
    assert (index["status"] == "ok").all() and index["split"].value_counts().to_dict() == {"train": 8, "test": 2}
    assert len(annotations.images) == 0 and not annotations.sets


def test_the_index_depends_on_seed_only(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = build(photos)
    monkeypatch.setenv("ULD_THREADS", "1")
    assert build(photos)[0].equals(first)
    assert any(not build(photos, seed=s)[0]["split"].equals(first["split"]) for s in (1, 2, 3))


def test_bad_files_are_listed_with_their_reason(photos: Path) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no picture")
    (photos / "zz.png").write_bytes((photos / "day0/0.png").read_bytes())
    (photos / "notes.txt").write_text("not looked at")
    (photos / ".hidden.png").write_bytes(b"")
    (photos / ".thumbs").mkdir()
    (photos / ".thumbs" / "x.png").write_bytes(b"")
    index = build(photos)[0].set_index("image")
    assert len(index) == 13
    assert index.loc["empty.jpg", ["status", "reason"]].tolist() == ["unreadable", "the file is empty (0 bytes)."]
    assert index.loc["text.png", "status"] == "unreadable" and "no image" in index.loc["text.png", "reason"]
    assert index.loc["zz.png", ["status", "reason"]].tolist() == ["duplicate", "same bytes as day0/0.png"]
    assert (index.loc[["empty.jpg", "text.png", "zz.png"], "split"] == "").all()
    assert index["split"].value_counts().to_dict() == {"train": 8, "test": 2, "": 3}


def test_too_many_bad_files_stop_with_their_paths(photos: Path) -> None:
    (photos / "empty.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 11 files.*max_bad(.|\n)*empty.jpg: the file is empty"):
        build(photos, max_bad=0.05)


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone is no folder: set `source`"):
        build(tmp_path / "gone")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match="holds no image"):
        build(tmp_path)


def test_a_split_file_rules(photos: Path) -> None:
    names = [f"day{i % 2}/{i}.png" for i in range(10)]
    lines = [f"{name},{'test' if i % 2 else 'train'},{name[:4]}" for i, name in enumerate(names)]
    (photos / "split.csv").write_text("image,split,group\n" + "\n".join(lines) + "\n")
    index, _ = build(photos)
    assert (index["split"] == np.where(index["group"] == "day1", "test", "train")).all()
    (photos / "split.csv").write_text("image,split\n" + "\n".join(f"{n},train" for n in names) + "\n")
    with pytest.raises(DataError, match="split 'test'"):
        build(photos)


def test_annotations_of_a_folder(photos: Path) -> None:
    (photos / "landmarks.csv").write_text("image,x0,y0\nday1/1.png,4,5\n")
    _, annotations = build(photos)
    assert annotations.sets["points"].xy.tolist() == [[[4, 5]]] and annotations.sets["points"].left == ()
    (photos / "coco.json").write_text("{}")
    with pytest.raises(DataError, match="keep one"):
        build(photos)


def split_file(photos: Path, *yaw: object) -> None:
    """The first four photographs are to test; a column of yaw, if any is given."""
    lines = [f"day{i % 2}/{i}.png,{'test' if i < 4 else 'train'}" for i in range(10)]
    if yaw:
        lines = [f"{line},{angle}" for line, angle in zip(lines, yaw, strict=True)]
    (photos / "split.csv").write_text("\n".join(["image,split,yaw" if yaw else "image,split", *lines]) + "\n")


def test_yaw_of_a_split_file_reaches_the_evaluation(photos: Path, tmp_path: Path) -> None:
    split_file(photos, "", "-45", *range(8))
    write_table(tmp_path / "index.csv", build(photos)[0])
    index = read_index(tmp_path / "index.csv")
    known = dict(zip(index["image"], of_images(index, {}), strict=True))
    assert known["day1/1.png"] == -45 and known["day1/9.png"] == 7 and np.isnan(known["day0/0.png"])


def test_a_subset_leaves_files_unopened(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    split_file(photos)
    (photos / "day1/9.png").write_text("no picture")  # the last one of the training images
    (photos / "landmarks.csv").write_text("image,x0,y0\nday1/9.png,4,5\nday0/0.png,1,2\n")
    index, annotations = build(photos, max_bad=0, subset=SubsetParams(train=3, test=None, choose="first"))
    table = index.set_index("image")
    assert index["image"].is_monotonic_increasing and len(index) == 10
    assert index["split"].value_counts().to_dict() == {"test": 4, "train": 3, "": 3}
    assert table.index[table["split"] == "train"].tolist() == ["day0/4.png", "day0/6.png", "day0/8.png"]
    left = table[table["status"] == "unused"]
    assert left.index.tolist() == ["day1/5.png", "day1/7.png", "day1/9.png"]
    assert left[["width", "height", "sha256"]].to_numpy().tolist() == [[0, 0, ""]] * 3
    assert set(left["reason"]) == {"not in the subset"}
    assert annotations.images.tolist() == ["day0/0.png"] and "annotated images are unreadable" not in caplog.text


def test_a_subset_of_a_drawn_split(photos: Path) -> None:
    """The split is that of all files, whatever the subset is."""
    whole = build(photos, test=0.4)[0]
    some = build(photos, test=0.4, subset=SubsetParams(train=2, test=3, choose="random"))[0]
    used = some["status"] == "ok"
    assert some["split"].value_counts().to_dict() == {"": 5, "test": 3, "train": 2}
    assert (some["split"] == whole["split"])[used].all()
    every = build(photos, test=0.4, subset=SubsetParams(train=None, test=None, choose="random"))[0]
    assert every.equals(whole)


def test_a_subset_of_bad_files(photos: Path) -> None:
    """They count among the files that are read; none takes their place."""
    split_file(photos)
    for name in ("day0/4.png", "day0/6.png"):
        (photos / name).write_text("no picture")
    with pytest.raises(DataError, match="2 of 6 files"):
        build(photos, subset=SubsetParams(train=2, test=None, choose="first"))
    with pytest.raises(DataError, match="no usable image is in split 'train'"):
        build(photos, max_bad=1, subset=SubsetParams(train=2, test=None, choose="first"))


def test_names_and_params() -> None:
    with pytest.raises(ParamsError, match="'orll' is no data set"):
        datasets.kind("orll")
    with pytest.raises(ParamsError, match=r"datasets.folder.max_bad"):
        params.build(FolderParams, {"test": 0.2, "max_bad": 2, "subset": None, "normaliser": {}}, "datasets.folder")
    assert datasets.root("folder", Path("x")) == Path("x")
