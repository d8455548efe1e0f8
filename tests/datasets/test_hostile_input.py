"""A table of bad input: a line a kind of it, with the words of the one message that must come of it.

Nothing but an error of the project's own may leave, on one line, with the file's name and a remedy. Images that are too
large are in tests/images/test_bombs.py, folders, links, rights and names in tests/images/test_walk.py.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uld import datasets
from uld.base import params, random
from uld.base.errors import DataError, ParamsError, ULDError
from uld.commands import blocks
from uld.datasets.faces3d import Faces3d, Faces3dParams
from uld.datasets.folder import Folder, FolderParams
from uld.roi import Context
from uld.roi.boxes import Boxes, BoxesParams

ROOT = Path(__file__).parents[2]
INDEX = pd.DataFrame({"image": ["a.png", "b.png"], "width": 100, "height": 50, "status": "ok"})


def read(folder: Path, name: str) -> object:
    """What the project makes of one file of a user, in a folder with the photographs a.png and b.png."""
    for photo in ("a.png", "b.png"):
        (folder / photo).touch()
    if name == "boxes.csv":
        return Boxes(BoxesParams(file=name), Context(folder, folder))
    if name == "faces.csv":
        return Faces3d(folder, Faces3dParams()).files()
    dataset = Folder(folder, FolderParams(test=0.2, max_bad=0.5, subset=None, normaliser={}))
    return dataset.files() if name == "split.csv" else dataset.annotations(INDEX)


def refused(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(folder, name)
    said = str(caught.value)
    assert re.search(words, said), said
    assert str(folder / name) in said and "\n" not in said and said.endswith(".") and len(said) < 400
    assert re.search(r": [^:]+\.$", said), f"no remedy: {said}"


# --- tables: what is wrong with any of them ---

GOOD = {
    "split.csv": ("image,split", ["a.png,train", "b.png,test"]),
    "landmarks.csv": ("image,x0,y0,x1,y1", ["a.png,1,2,3,4", "b.png,5,6,,"]),
    "landmarks-eyes.csv": ("image,x_left eye,y_left eye,x_b,y_b", ["a.png,1,2,3,4", "b.png,5,6,,"]),
    "boxes.csv": ("image,x1,y1,x2,y2", ["a.png,1,2,3,4", "b.png,1,2,9,9"]),
    "faces.csv": ("image,split,person,yaw", ["a.png,train,1,-20.5", "b.png,test,2,30"]),
}
Change = Callable[[str, list[str]], str | bytes]
ANY_TABLE: dict[str, tuple[Change, str]] = {
    "empty": (lambda head, lines: "", "is no readable CSV"),
    "blank lines alone": (lambda head, lines: "\n\n\n", "is no readable CSV"),
    "a mark alone": (lambda head, lines: b"\xef\xbb\xbf", "is no readable CSV"),
    "header alone": (lambda head, lines: f"{head}\n", "no line below its header: add lines, or remove the file"),
    "header without end": (lambda head, lines: head, "no line below its header"),
    "lines without header": (lambda head, lines: "\n".join(lines), "needs the columns image,"),
    "a cell more": (lambda head, lines: f"{head}\n{lines[0]}\n{lines[1]},7\n", r", line 3: \d cells where the header"),
    "a cell more in each line": (lambda head, lines: f"{head}\n{lines[0]},7\n{lines[1]},7\n", ", line 2: "),
    "a cell less": (lambda head, lines: f"{head}\n{lines[0]}\n{lines[1].rsplit(',', 1)[0]}\n", ", line 3: "),
    "one cell": (lambda head, lines: f"{head}\n{lines[0]}\nb.png\n", ", line 3: 1 cells where the header"),
    "a bare comma": (lambda head, lines: f"{head}\n{lines[0]}\n,\n,\n,\n,\n,,,,,,,,\n", r", line \d: "),
    "after blank lines": (lambda head, lines: f"{head}\n\n\n{lines[0]},7\n", ", line 4: "),
    "an image column less": (lambda head, lines: f"{head}\n{lines[0]}\n".replace("image", "photo"), "lacks image"),
    "semicolons": (lambda head, lines: f"{head}\n{lines[0]}\n".replace(",", ";"), "needs the columns image,"),
    "tabs": (lambda head, lines: f"{head}\n{lines[0]}\n".replace(",", "\t"), "needs the columns image,"),
    "a column twice": (
        lambda head, lines: f"{head},image\n{lines[0]},a.png\n",
        "has the column 'image' twice: keep one",
    ),
    "an image twice": (lambda head, lines: f"{head}\n{lines[0]}\n{lines[1]}\n{lines[0]}\n", "twice|a second box of"),
    "UTF-16": (lambda head, lines: f"{head}\n{lines[0]}\n".encode("utf-16"), ", line 1: is no UTF-8 text: save"),
    "Latin 1": (lambda head, lines: f"{head}\n{lines[0]}\nä".encode("latin-1"), ", line 3: is no UTF-8 text: save"),
    "a NUL byte": (lambda head, lines: f"{head}\n{lines[0]}\0\n", ", line 2: holds a NUL byte: remove it"),
    "a PNG": (lambda head, lines: b"\x89PNG\r\n\x1a\n\0\0", ", line 1: is no UTF-8 text"),
    "an open quote": (lambda head, lines: f'{head}\n{lines[0]}\n"{lines[1]}\n', "line 3|no readable CSV"),
    "a page of HTML": (lambda head, lines: "<html>\n<body>\n</body>\n</html>\n", "needs the columns image,"),
    "a cell of a million letters": (lambda head, lines: f"{head}\n{'x' * 10**6}\n", "is no readable CSV .*field"),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", ANY_TABLE)
def test_no_table(tmp_path: Path, name: str, kind: str) -> None:
    change, words = ANY_TABLE[kind]
    content = change(*GOOD[name])
    refused(tmp_path, name, content if isinstance(content, bytes) else content.encode(), words)


SAME: dict[str, Change] = {
    "a byte-order mark": lambda head, lines: "\ufeff" + "\n".join([head, *lines]),
    "line ends of Windows": lambda head, lines: "\r\n".join([head, *lines, ""]),
    "line ends of old": lambda head, lines: "\r".join([head, *lines]),
    "blank lines": lambda head, lines: "\n\n".join(["", head, *lines, "", ""]),
    "spaces after commas": lambda head, lines: "\n".join([head, *lines]).replace(",", ", "),
    "quotes": lambda head, lines: "\n".join([head, *(re.sub(r"[^,]+", r'"\g<0>"', line) for line in lines)]),
}


def content_of(read: Any) -> str:
    if isinstance(read, Boxes):
        return str((read._values, read._row))
    return str(read.to_dict() if isinstance(read, pd.DataFrame) else (read.images, read.sets))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", SAME)
def test_what_editors_do_to_a_table_changes_nothing(tmp_path: Path, name: str, kind: str) -> None:
    head, lines = GOOD[name]
    (tmp_path / name).write_text("\n".join([head, *lines]))
    plain = content_of(read(tmp_path, name))
    (tmp_path / name).write_text(SAME[kind](head, lines), newline="")
    assert content_of(read(tmp_path, name)) == plain


# --- tables: cells ---

CELLS = {
    "no number": ("wide", "'wide' in column {} is no number: correct it"),
    "True": ("True", "'True' in column {} is no number: correct it"),
    "hexadecimal": ("0x10", "'0x10' in column {} is no number"),
    "underscores": ("1_000", "'1_000' in column {} is no number"),
    "a decimal comma": ('"1,5"', "'1,5' in column {} is no number"),
    "two numbers": ("1 2", "'1 2' in column {} is no number"),
    "an escape": ("\x1b[31m", r"'\\x1b\[31m' in column {} is no number"),
    "thousands of letters": ("z" * 5000, r"'z{{57}}\.\.\.' in column {} is no number"),
    "infinity": ("inf", "infinite|needs numbers"),
    "minus infinity": ("-Infinity", "infinite|needs numbers"),
    "thousands of digits": ("9" * 5000, r"'9{{57}}\.\.\.' in column {} is no number"),
    "hundreds of digits": ("9" * 400, "infinite|needs numbers"),
    "beyond a float": ("1e999", "infinite|needs numbers"),
    "beyond a small float": ("-1e300", "infinite|pixels out"),
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("name", "column"), [("landmarks.csv", "x0"), ("boxes.csv", "x1")])
@pytest.mark.parametrize("alone", [True, False])
def test_no_number(tmp_path: Path, name: str, column: str, kind: str, alone: bool) -> None:
    """In a column with numbers, and alone in it: pandas guesses the kind of a column by all its cells."""
    cell, words = CELLS[kind]
    head, (first, second) = GOOD[name]
    spoilt = second.split(",", 2)
    spoilt = f"{spoilt[0]},{cell},{spoilt[2]}"
    text = f"{head}\n{spoilt}\n" if alone else f"{head}\n{first}\n{spoilt}\n"
    line = "" if "infinite" in words and name == "landmarks.csv" else f"line {2 if alone else 3}: .*"
    refused(tmp_path, name, text.encode(), f"{line}({words.format(column)})")


MORE: dict[str, tuple[str, str, str]] = {
    "half a point": ("landmarks.csv", "a.png,1,,3,4", "point 0 .* half absent"),
    "points of another photograph": ("landmarks.csv", "a.png,1000,2,3,4", "point 0 .* far outside the image"),
    "points of no photograph": ("landmarks.csv", "z.png,1,2,3,4", "'z.png' is no file of the data set"),
    "points of a nameless photograph": ("landmarks.csv", ",1,2,3,4", "'' is no file of the data set"),
    "points of a name with an escape": ("landmarks.csv", "\x1b[2J,1,2,3,4", r"'\\x1b\[2J' is no file of the data set"),
    "a box inside out": ("boxes.csv", "a.png,5,2,3,4", "line 2: the box of 'a.png' needs numbers with x1 < x2"),
    "an empty box": ("boxes.csv", "a.png,1,2,1,4", "line 2: the box of 'a.png' needs numbers with x1 < x2"),
    "half a box": ("boxes.csv", "a.png,1,,3,4", "line 2: the box of 'a.png' needs numbers"),
    "a box of NaN": ("boxes.csv", "a.png,1,nan,3,4", "line 2: the box of 'a.png' needs numbers"),
    "a speck": ("boxes.csv", "a.png,1,2,1.000000000001,4", "line 2: the box of 'a.png' is less than 1 pixel wide"),
    "a hair": ("boxes.csv", "a.png,1,2,4,2.5", "line 2: the box of 'a.png' is less than 1 pixel wide or high: give"),
    "a box of 1e300": (
        "boxes.csv",
        "a.png,1,2,1e300,4",
        "line 2: the box of 'a.png' lies more than 1048576 pixels out",
    ),
    "a box of -1e300": ("boxes.csv", "a.png,-1e300,2,3,4", "line 2: .* lies more than 1048576 pixels out: give edges"),
    "a nameless box": ("boxes.csv", ",1,2,3,4", "line 2: a box without an image: name it, or remove the line"),
    "a third split": ("split.csv", "a.png,val", "line 2: split 'val' must be train or test"),
    "an empty split": ("split.csv", "a.png,", "line 2: split '' must be train or test"),
    "a long split": ("split.csv", f"a.png,{'t' * 999}", r"line 2: split 't{57}\.\.\.' must be train or test"),
    "a split of no photograph": ("split.csv", "a.png,train\nb.png,test\nz.png,test", "'z.png' names no file below"),
    "a photograph left out": ("split.csv", "a.png,train", "'b.png' is missing in it: add a line"),
    "a third split of heads": ("faces.csv", "a.png,val,1,2", "line 2: the split must be train or test"),
    "a yaw of many turns": ("faces.csv", "a.png,train,1,1000", "line 2: yaw '1000' lies outside -180 to 180"),
    "a yaw in words": ("faces.csv", "a.png,train,1,left", "line 2: 'left' in column yaw is no number"),
}


@pytest.mark.parametrize("kind", MORE)
def test_wrong_lines(tmp_path: Path, kind: str) -> None:
    name, lines, words = MORE[kind]
    refused(tmp_path, name, f"{GOOD[name][0]}\n{lines}\n".encode(), words)


NAMED = {
    "without y": ("image,x_nose", "lacks y_nose"),
    "without x": ("image,y_nose,x_ear,y_ear", "lacks x_nose"),
    "twice": ("image,x_nose,y_nose,x_nose,y_nose", "has the column 'x_nose' twice: keep one"),
    "by a number twice": ("image,x0,y0,x1,y1,y1", "has the column 'y1' twice: keep one"),
    "without a name": ("image,x_,y_", "needs the columns image,x0,y0,x1,y1,... without a gap, or image,x_NAME,y_NAME"),
    "by the thousand": (",".join(["image", *(f"x_{n}" for n in range(5000))]), r"lacks y_0, y_1, .*\.\.\.\.$"),
}


@pytest.mark.parametrize("kind", NAMED)
def test_no_named_points(tmp_path: Path, kind: str) -> None:
    head, words = NAMED[kind]
    line = ",".join(["a.png", *("1" for _ in head.split(",")[1:])])
    refused(tmp_path, "landmarks.csv", f"{head}\n{line}\n".encode(), words)


NO_NAMES = [
    "landmarks_eyes.csv",
    "landmarks eyes.csv",
    "landmarks (1).csv",
    "landmarks-.csv",
    "landmarks--eyes.csv",
    "landmarks-1.csv",
    "landmarks-\x1b[2J.csv",
    "landmarks-a.b.csv",
    "landmarks-äugen.csv",
    "landmarks68.csv",
    "Landmarks.csv",
    "landmarks.CSV",
    "landmarks.json",
    "coco.csv",
    "coco-eyes.csv",
    "coco_keypoints.json",
    f"landmarks-{'x' * 200}é.csv",
]
TAKEN = ["landmarks-images.csv", "coco-rule.json"]


@pytest.mark.parametrize("name", NO_NAMES + TAKEN)
def test_no_name_of_a_markup(tmp_path: Path, name: str) -> None:
    for file in ("a.png", name):
        (tmp_path / file).touch()
    dataset = Folder(tmp_path, FolderParams(test=0.2, max_bad=0.5, subset=None, normaliser={}))
    for run in (dataset.files, lambda: dataset.annotations(INDEX)):
        with pytest.raises(DataError) as caught:
            run()
        said = str(caught.value)
        words = "cannot be called '[a-z]+': choose another" if name in TAKEN else "no name of a mark-up's file: call it"
        assert re.search(words, said) and "\n" not in said and "\x1b" not in said and len(said) < 400


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ["coco.json", "landmarks.csv"],
            r"landmarks\.csv: coco\.json holds the mark-up 'points' too: keep one of them\.",
        ),
        (["landmarks-points.csv", "landmarks.csv"], "holds the mark-up 'points' too: keep one"),
        (["coco-a.json", "landmarks-a.csv"], r"landmarks-a\.csv: coco-a\.json holds the mark-up 'a' too: keep one"),
    ],
)
def test_a_markup_twice(tmp_path: Path, names: list[str], words: str) -> None:
    for name in ("a.png", *names):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=words):
        Folder(tmp_path, FolderParams(test=0.2, max_bad=0.5, subset=None, normaliser={})).files()


YAWS = {
    "in words": ("left", "line 3: 'left' in column yaw is no number: correct it"),
    "of NaN": ("nan", "line 3: 'nan' in column yaw is no number"),
    "of infinity": ("inf", "line 3: yaw 'inf' lies outside -180 to 180 degrees: correct it"),
    "of minus infinity": ("-inf", "line 3: yaw '-inf' lies outside"),
    "of a turn and a bit": ("180.5", "line 3: yaw '180.5' lies outside"),
    "of many turns": ("-1e300", "line 3: yaw '-1e300' lies outside"),
    "of thousands of digits": ("9" * 5000, r"line 3: '9{57}\.\.\.' in column yaw is no number"),
}


@pytest.mark.parametrize("kind", YAWS)
def test_no_yaw(tmp_path: Path, kind: str) -> None:
    cell, words = YAWS[kind]
    refused(tmp_path, "split.csv", f"image,yaw,split\na.png,,train\nb.png,{cell},test\n".encode(), words)


def test_yaw_twice(tmp_path: Path) -> None:
    text = b"image,yaw,split,yaw\na.png,1,train,2\nb.png,1,test,2\n"
    refused(tmp_path, "split.csv", text, "has the column 'yaw' twice: keep one")


@pytest.mark.parametrize(
    "head", ["image,x0", "image,y0", "image,x1,y1", "image,x0,y0,x2,y2", "image,X0,Y0", "image,x0,y1"]
)
def test_no_points(tmp_path: Path, head: str) -> None:
    line = ",".join(["a.png", *"12345"[: head.count(",")]])
    refused(
        tmp_path, "landmarks.csv", f"{head}\n{line}\n".encode(), "needs the columns image,x0,y0,x1,y1,... without a"
    )


# --- COCO ---

IMAGE, MARKED = {"id": 1, "file_name": "a.png"}, {"id": 5, "image_id": 1, "keypoints": [1, 2, 2]}


def coco(image: object = IMAGE, marked: object = MARKED, *more: object) -> dict[str, object]:
    return {"images": [image], "annotations": [marked, *more]}


def marked(**changes: object) -> dict[str, object]:
    return coco(marked=MARKED | changes)


def categories(*keypoints: object) -> dict[str, object]:
    """An annotation of each category, whose names these are."""
    named = [{"id": n, "name": "cat", "keypoints": one} for n, one in enumerate(keypoints)]
    marks = [MARKED | {"id": 5 + n, "category_id": n} for n in range(len(keypoints))]
    return coco(IMAGE, *marks) | {"categories": named}


COCO: dict[str, tuple[Any, str]] = {
    "nothing": ("", "no COCO keypoints file"),
    "a list": ("[]", "no COCO keypoints file .*needs lists `images` and `annotations`"),
    "a number": ("3", "no COCO keypoints file .*needs lists"),
    "null": ("null", "no COCO keypoints file .*needs lists"),
    "half": ('{"images": [', "no COCO keypoints file"),
    "two documents": ("{} {}", "no COCO keypoints file .*Extra data"),
    "deep lists": ("[" * 100_000, "no COCO keypoints file .*nested too deeply"),
    "deep blocks": ('{"a":' * 100_000, "no COCO keypoints file .*nested too deeply"),
    "thousands of digits": (f'{{"images": [{"9" * 5000}]}}', "no COCO keypoints file .*digits"),
    "NaN": (json.dumps(marked(keypoints=[float("nan"), 2, 2])), "NaN is no number"),
    "infinity": (json.dumps(marked(area=float("inf"))), "Infinity is no number"),
    "minus infinity": (json.dumps(marked(area=-float("inf"))), "-Infinity is no number"),
    "Latin 1": (json.dumps(coco()).encode() + b"\xe4", "line 1: is no UTF-8 text"),
    "UTF-16": (json.dumps(coco()).encode("utf-16"), "line 1: is no UTF-8 text"),
    "no images": ({"annotations": [MARKED]}, "needs lists `images`"),
    "images in a block": ({"images": {}, "annotations": [MARKED]}, "needs lists `images`"),
    "no annotations": ({"images": [IMAGE]}, "needs lists `images` and `annotations`"),
    "annotations of none": ({"images": [IMAGE], "annotations": []}, "holds no annotation with keypoints: add some"),
    "boxes alone": (coco(marked={"id": 5, "image_id": 1, "bbox": [1, 2, 3, 4]}), "holds no annotation with keypoints"),
    "an image in words": (coco("a.png"), 'an image needs an `id` and a text `file_name`, .*"a.png"'),
    "an image without id": (coco({"file_name": "a.png"}), "an image needs an `id`"),
    "an image without name": (coco({"id": 1}), "an image needs an `id` and a text `file_name`"),
    "a name in numbers": (coco(IMAGE | {"file_name": 7}), "an image needs an `id` and a text `file_name`"),
    "a list of names": (coco(IMAGE | {"file_name": ["a.png"]}), "an image needs an `id` and a text `file_name`"),
    "an id in a list": (coco(IMAGE | {"id": [1]}), "an image needs an `id`"),
    "an id of true": (coco(IMAGE | {"id": True}), "an image needs an `id`"),
    "an id of null": (coco(IMAGE | {"id": None}), "an image needs an `id`"),
    "an id twice": ({"images": [IMAGE, IMAGE], "annotations": [MARKED]}, "two images have the id 1: give each an id"),
    "a name twice": (
        {"images": [IMAGE, IMAGE | {"id": 2}], "annotations": [MARKED]},
        "two images have the file_name 'a.png': keep one",
    ),
    "an annotation in words": (coco(IMAGE, "points"), "an annotation needs an `image_id`"),
    "an annotation of null": (coco(IMAGE, None), "an annotation needs an `image_id`"),
    "an annotation of no image": (coco(marked={"id": 5, "keypoints": [1, 2, 2]}), "an annotation needs an `image_id`"),
    "an unknown image": (marked(image_id=70), "annotation 5: `images` lacks its image id 70: add it"),
    "an image id in a list": (marked(image_id=[1]), r"annotation 5: `images` lacks its image id \[1\]"),
    "an image id of null": (marked(image_id=None), "annotation 5: `images` lacks its image id None"),
    "points in words": (marked(keypoints="1,2,2"), "annotation 5: `keypoints` must be a list of numbers"),
    "points in a block": (marked(keypoints={"x": 1}), "annotation 5: `keypoints` must be a list"),
    "points of one number": (marked(keypoints=3), "annotation 5: `keypoints` must be a list"),
    "a point in words": (marked(keypoints=["1", 2, 2]), r"annotation 5: .* is no number \('1'\)"),
    "a point in a list": (marked(keypoints=[[1], 2, 2]), "annotation 5: a keypoint value is no number"),
    "a point of null": (marked(keypoints=[None, 2, 2]), "annotation 5: a keypoint value is no number"),
    "a point of true": (marked(keypoints=[1, 2, True]), "annotation 5: a keypoint value is no number"),
    "a point of 400 digits": (marked(keypoints=[10**400, 2, 2]), "annotation 5: a keypoint value is no"),
    "a point of 1e300": (marked(keypoints=[1e300, 2, 2]), "point 0 .* infinite: give x and y"),
    "two thirds of a point": (marked(keypoints=[1, 2]), "annotation 5 has 2 keypoint values: give x, y"),
    "more points": (coco(IMAGE, MARKED, MARKED | {"id": 6, "keypoints": [1, 2, 2] * 2}), "annotation 6 has 6 keypoint"),
    "an area in words": (marked(area="large"), "annotation 5: `area` must be a number, not 'large'"),
    "an area of null": (marked(area=None), "annotation 5: `area` must be a number, not 'None'"),
    "an area in a list": (marked(area=[1]), "annotation 5: `area` must be a number"),
    "categories in a block": (coco() | {"categories": {}}, "no COCO keypoints file .*`categories` must be a list"),
    "a category in words": (coco() | {"categories": ["cat"]}, "no COCO keypoints file .*`categories` must be a list"),
    "names in words": (categories("nose"), "category 'cat': `keypoints` must be a list of names, not 'nose'"),
    "names in numbers": (categories([1]), "category 'cat': `keypoints` must be a list of names"),
    "an empty name": (categories([""]), "category 'cat': `keypoints` must be a list of names"),
    "more names than points": (categories(["a", "b"]), "category 'cat' has names for 2 keypoints of 1: name each"),
    "a name of two points": (
        coco(IMAGE, MARKED | {"keypoints": [1, 2, 2] * 2}) | {"categories": [{"name": "", "keypoints": ["a", "a"]}]},
        "category '' has the keypoint 'a' twice: give each",
    ),
    "names that differ": (categories(["a"], ["b"]), "categories 'cat' and 'cat' name the keypoints otherwise: export"),
    "a file that is not there": (coco(IMAGE | {"file_name": "z.png"}), "'z.png' is no file of the data set"),
    "a name with an escape": (coco(IMAGE | {"file_name": "\x1b[2J"}), r"'\\x1b\[2J' is no file of the data set"),
}  # fmt: skip


@pytest.mark.parametrize("kind", COCO)
def test_no_coco(tmp_path: Path, kind: str) -> None:
    tree, words = COCO[kind]
    text = tree if isinstance(tree, str | bytes) else json.dumps(tree)
    refused(tmp_path, "coco.json", text if isinstance(text, bytes) else text.encode(), words)


def test_coco_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(
        json.dumps(coco(IMAGE | {"id": "one"}, MARKED | {"image_id": "one"})), "utf-8-sig"
    )
    (read_,) = read(tmp_path, "coco.json").sets.values()  # type: ignore[attr-defined]
    assert read_.xy.tolist() == [[[1, 2]]]


# --- params.yaml ---

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]\n" for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
YAML: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "must hold a mapping of keys to values: correct it"),
    "a list": ("[1, 2]", "must hold a mapping"),
    "text": ("seed", "must hold a mapping"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    "an open list": ("a: [", "is not valid YAML"),
    "a tab": ("a:\n\tb: 1\n", "line 2, is not valid YAML"),
    "a key twice": ("seed: 1\nroi: 2\nseed: 3\n", "line 3, is not valid YAML .*duplicate key"),
    "a key twice in a block": ("roi:\n  crop: 1\n  crop: 2\n", "line 3, is not valid YAML .*duplicate key"),
    "an alias of nothing": ("a: *b\n", "line 1, is not valid YAML .*undefined alias"),
    "an alias within itself": ("a: &x [*x]\n", "an alias stands within itself: write the values out"),
    "a block within itself": ("a: &x {b: {c: *x}}\n", "an alias stands within itself"),
    "a billion laughs": (LAUGHS, "holds more than 100000 values, aliases written out: write fewer"),
    "a chain of aliases": (CHAIN, "nests blocks more than 50 deep"),
    "deep lists": (f"a: {'[' * 100_000}{']' * 100_000}", "nests blocks more than 50 deep"),
    "deep open lists": ("a: " + "[" * 100_000, "nests blocks more than 50 deep|not valid YAML"),
    "deep dashes": (f"a:\n  {'- ' * 10_000}1\n", "nests blocks more than 50 deep"),
    "a seed of thousands of digits": (f"seed: {'9' * 5000}\n", "a value cannot be read .*digits.*: correct it"),
    "no day": ("day: 2020-13-45\n", "a value cannot be read .*month"),
    "a tag that lies": ("a: !!int x\n", "a value cannot be read"),
    "a tag of true that lies": ("a: !!bool x\n", "a value cannot be read"),
    "a tag of a float that lies": ("a: !!float x\n", "a value cannot be read"),
    "a tag of Python": ("a: !!python/object/apply:os.system [ls]\n", "is not valid YAML .*constructor"),
    "a key of a list": ("? [a, b]\n: 1\n", "the key .* is no text: correct it"),
    "a key of a day": ("2020-01-01: 1\n", "the key '2020-01-01' is no text"),
    "a key of a block": ("? {a: b}\n: 1\n", "is not valid YAML"),
    "Latin 1": ("a: ä\n".encode("latin-1"), "line 1: is no UTF-8 text: save the file in the encoding UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "line 1: is no UTF-8 text"),
    "a NUL byte": ("a: \0\n", "is not valid YAML"),
    "an escape": ("a: \x1b\n", "is not valid YAML"),
    "another version": ("%YAML 9.9\n---\na: 1\n", "is not valid YAML .*version|is not valid YAML .*document"),
}  # fmt: skip


@pytest.mark.parametrize("kind", YAML)
def test_no_params(tmp_path: Path, kind: str) -> None:
    text, words = YAML[kind]
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError) as caught:
        params.load(path)
    said = str(caught.value)
    assert re.search(words, said), said
    assert said.startswith(str(path)) and "\n" not in said and said.endswith(".") and len(said) < 400


def test_params_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\n", "utf-8-sig")
    assert params.load(tmp_path / "params.yaml") == {"seed": 7}


def test_params_that_are_a_folder(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(ParamsError, match=r"params\.yaml: is a folder where a file is expected: move or rename it"):
        params.load(tmp_path / "params.yaml")


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a;b",
    "$(a)",
    "`a`",
    "a|b",
    "a&b",
    "a>b",
    "a'b",
    'a"b',
    "a/b",
    "..",
    "../a",
    "a.b",
    "-a",
    "ä",
]
BAD_NAMES += ["a\nb", "a\\b", "*", "~", "{a}", "${a}", "#a", "a:b", "%a", "a,b", "\u200b", "!", "a\0b"]


@pytest.mark.parametrize("table", params.NAMED)
def test_names_of_lines_that_a_shell_would_not_take(tmp_path: Path, table: str) -> None:
    path = tmp_path / "params.yaml"
    for name in [*BAD_NAMES, 7, True, None, 1.5]:
        path.write_text(
            json.dumps({table: {"good-1_a": {}, name: {}}}) if isinstance(name, str) else f"{table}: {{{name}: 1}}"
        )
        if name is None:
            path.write_text(f"{table}: {{null: 1}}")
        with pytest.raises(ParamsError, match=rf"params\.yaml: {table}: a line is called .*: take a name of letters"):
            params.load(path)
    path.write_text(f"{table}: {{good-1_a: 1, '7': 2, _x: 3}}")
    assert len(params.load(path)[table]) == 3


SOURCES = ["", " ", "a\0b", "x" * 5000]


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_name_no_folder(source: str) -> None:
    with pytest.raises(
        ParamsError, match=r"^params\.yaml: source: must name the folder of your images, not [^\n]{0,70}\.$"
    ):
        datasets.source_folder(source)


PARAMS: dict[str, tuple[dict[str, Any], str]] = {
    "a negative seed": ({"seed": -1}, "seed: .*greater than or equal to 0, not -1"),
    "a huge seed": ({"seed": 2**63}, "seed: .*not 9223372036854775808"),
    "a seed of a float": ({"seed": 1.5}, "seed: .*integer, not 1.5"),
    "an empty source": ({"source": ""}, "source: must name the folder of your images, not ''"),
    "a long source": ({"source": "x" * 5000}, "source: must name the folder of your images"),
    "a source with a NUL byte": ({"source": "a\0b"}, r"source: must name the folder of your images, not 'a\\x00b'"),
    "a source in a list": ({"source": ["a"]}, "source: .*string"),
    "a huge crop": ({"roi.crop": 100_000}, "roi.crop: .*less than or equal to 4096, not 100000"),
    "a tiny crop": ({"roi.crop": 1}, "roi.crop: .*greater than or equal to 8, not 1"),
    "a huge margin": ({"roi.margin": 1e308}, "roi.margin: .*less than or equal to 10, not 1e"),
    "a margin of infinity in words": ({"roi.margin": float("inf")}, "roi.margin: .*valid number"),
    "half of the crop as border": ({"roi.border": 0.5}, "roi.border: .*less than or equal to 0.4, not 0.5"),
    "a negative margin": ({"roi.margin": -1}, "roi.margin: .*greater than or equal to 0"),
    "a margin of NaN in words": ({"roi.margin": float("nan")}, "roi.margin: .*valid number"),
    "no landmarks": ({"landmarks": 0}, "landmarks: rounds.duld-1: DULD finds 1 to 1000000 landmarks, not 0"),
    "negative landmarks": ({"landmarks": -3}, "landmarks: .*greater than or equal to 0, not -3"),
    "a row without landmarks": (
        {"rows.duld.landmarks": 0},
        "rows.duld.landmarks: rows.duld: DULD finds 1 to 1000000 landmarks, not 0",
    ),
    "a model in a list": ({"starts.frozen.model": ["frozen"]}, "starts.frozen: there is no start of model"),
    "a long model": ({"starts.frozen.dims": "z" * 5000}, r"starts.frozen.dims: .*, not 'z{56}\.\.\."),
    "a subset of nothing": (
        {"datasets.folder.subset": {"train": 0, "test": None, "choose": "first"}},
        "datasets.folder.subset.train: .*greater than or equal to 1, not 0",
    ),
    "a subset by a number": ({"datasets.folder.subset": 5000}, r"datasets.folder.subset: .*, not 5000"),
    "a subset of the last": (
        {"datasets.folder.subset": {"train": None, "test": 5, "choose": "last"}},
        "datasets.folder.subset.choose: .*'first' or 'random', not 'last'",
    ),
    "a subset of one split": (
        {"datasets.folder.subset": {"train": 5, "choose": "first"}},
        "datasets.folder.subset.test: key is missing",
    ),
    "a normaliser in words": ({"datasets.folder.normaliser": "eyes"}, "datasets.folder.normaliser: .*, not 'eyes'"),
    "no normaliser": ({"datasets.folder.normaliser": None}, "datasets.folder.normaliser: .*, not None"),
    "a normaliser without right": (
        {"datasets.folder.normaliser": {"points": {"left": [0]}}},
        "datasets.folder.normaliser.points.right: key is missing",
    ),
    "a normaliser of no points": (
        {"datasets.folder.normaliser": {"points": {"left": [], "right": [0]}}},
        "datasets.folder.normaliser.points.left: .*at least one point, not",
    ),
    "a normaliser of halves": (
        {"datasets.folder.normaliser": {"points": {"left": [0], "right": [1, 0.5]}}},
        "datasets.folder.normaliser.points.right.1: .*the number or the name of a point, not 0.5",
    ),
    "a normaliser of true": (
        {"datasets.folder.normaliser": {"points": {"left": [True], "right": [1]}}},
        "datasets.folder.normaliser.points.left.0: .*the number or the name of a point, not True",
    ),
    "a normaliser of the middle": (
        {"datasets.folder.normaliser": {"points": {"left": [0], "right": [1], "middle": [2]}}},
        "datasets.folder.normaliser.points.middle: unknown key",
    ),
    "a data set in a list": ({"dataset": []}, "dataset: .*string"),
    "a provider of no name": ({"roi.providers": [""]}, "roi.providers: '' is no line of roi_providers"),
}


def put(tree: Any, key: str, value: object) -> None:
    *above, last = key.split(".")
    for name in above:
        tree = tree[name]
    tree[last] = value


@pytest.mark.parametrize("kind", PARAMS)
def test_absurd_values(tmp_path: Path, kind: str) -> None:
    changes, words = PARAMS[kind]
    tree = params.load(ROOT / "params.yaml")
    for key, value in changes.items():
        put(tree, key, value)
    (tmp_path / "params.yaml").write_text(json.dumps(tree))
    found = blocks.problems(tmp_path / "params.yaml")
    assert any(re.search(words, said) for said in found), found
    assert all("\n" not in said and len(said) < 400 for said in found)


@pytest.mark.parametrize("seed", [2**63, 10**300])
def test_a_seed_too_large_for_files(seed: int) -> None:
    with pytest.raises(ULDError, match=r"seed: is too large: take one below 2\^63"):
        random.rng(seed, "a")
    assert random.rng(2**63 - 1, "a").random() != np.inf
