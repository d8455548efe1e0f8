"""Several mark-ups of a folder: their files, names of points, the normaliser, and what contradicts itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uld.artifacts.annotations import Annotations
from uld.base.errors import DataError, ParamsError
from uld.datasets.folder import Folder, FolderParams
from uld.datasets.normaliser import NormaliserParams

NAN = np.nan
INDEX = pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "width": 100, "height": 80, "status": "ok"})


def dataset(folder: Path, **normaliser: tuple[list[Any], list[Any]]) -> Folder:
    spans = {name: NormaliserParams(left=tuple(a), right=tuple(b)) for name, (a, b) in normaliser.items()}
    return Folder(folder, FolderParams(test=0.5, max_bad=0.5, subset=None, normaliser=spans))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in INDEX["image"]:
        (tmp_path / name).touch()
    return tmp_path


def table(folder: Path, name: str, head: str, *lines: str) -> None:
    (folder / name).write_text("\n".join([head, *lines]) + "\n")


def coco(folder: Path, name: str, points: list[float], keypoints: list[str], category: object = 3) -> None:
    """The points of b.png; of three categories the first has `keypoints`, the second none, the third other ones."""
    named = [{"id": 3, "name": "cat", "keypoints": keypoints}, {"id": 4}, {"id": 5, "name": "hen", "keypoints": ["b"]}]
    marked = {"id": 1, "image_id": 7, "category_id": category, "keypoints": points}
    tree = {"images": [{"id": 7, "file_name": "b.png"}], "annotations": [marked], "categories": named}
    (folder / name).write_text(json.dumps(tree))


def three(folder: Path) -> Annotations:
    """Three mark-ups, of images of their own."""
    table(folder, "landmarks.csv", "image,x0,y0", "c.png,5,6", "a.png,1,2")
    table(folder, "landmarks-Eyes_2-b.csv", "image,x_l,y_l,x_r,y_r", "a.png,3,4,5,6", "c.png,,,,")
    coco(folder, "coco-fur.json", [7, 8, 2], ["nose"])
    return dataset(folder).annotations(INDEX)


def test_each_file_is_a_markup(folder: Path) -> None:
    found = three(folder)
    assert found.images.tolist() == ["a.png", "b.png", "c.png"] and list(found.sets) == ["Eyes_2-b", "fur", "points"]
    np.testing.assert_array_equal(found.sets["points"].xy, np.array([[[1, 2]], [[NAN, NAN]], [[5, 6]]], np.float32))
    np.testing.assert_array_equal(found.sets["fur"].xy, np.array([[[NAN, NAN]], [[7, 8]], [[NAN, NAN]]], np.float32))
    np.testing.assert_array_equal(found.sets["Eyes_2-b"].xy[0], [[3, 4], [5, 6]])
    assert all(one.xy.dtype == np.float32 and not one.spanned for one in found.sets.values())


def test_files_of_markups_are_not_counted_as_others(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    three(folder)
    assert dataset(folder).files()["image"].tolist() == INDEX["image"].tolist()
    assert "passed over" not in caplog.text
    (folder / "d").mkdir()
    (folder / "d/landmarks-a.csv").touch()
    assert len(dataset(folder).files()) == 3
    assert "1 files with no image suffix" in caplog.text


def test_a_markup_without_any_point(folder: Path) -> None:
    table(folder, "landmarks.csv", "image,x0,y0", "c.png,,")
    found = dataset(folder).annotations(INDEX)
    assert found.images.tolist() == [] and found.sets["points"].xy.shape == (0, 1, 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("z.png,3,4,5,6", r"image 'z\.png' is no file of the data set"),
        ("a.png,3,4,5,666", r"image 'a\.png', point 1 \('r'\) at \(5, 666\) lies far"),
    ],
)
def test_errors_name_the_file_and_the_point(folder: Path, line: str, words: str) -> None:
    three(folder)
    table(folder, "landmarks-Eyes_2-b.csv", "image,x_l,y_l,x_r,y_r", line)
    with pytest.raises(DataError, match=rf"landmarks-Eyes_2-b\.csv: {words}"):
        dataset(folder).annotations(INDEX)


# --- names of points ---


def test_points_have_the_order_of_the_header(folder: Path) -> None:
    table(folder, "landmarks.csv", "y_b,image,x_a,who,x_b,y_a", "1,a.png,2,me,3,4")
    found = dataset(folder, points=(["a"], ["b"])).annotations(INDEX).sets["points"]
    assert found.xy.tolist() == [[[3, 1], [2, 4]]] and (found.left, found.right) == ((1,), (0,))


def test_numbers_win_over_names(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(folder, "landmarks.csv", "image,x0,y0,x_min,y_min,x_ray", "a.png,1,2,3,4,5")
    assert dataset(folder).annotations(INDEX).sets["points"].xy.tolist() == [[[1, 2]]]
    assert "landmarks.csv: its points are x0,y0,...; x_min and its kin are passed over." in caplog.text


def test_names_are_those_of_the_annotations_category(folder: Path) -> None:
    coco(folder, "coco.json", [1, 2, 2, 3, 4, 2], ["tip", "end"])
    found = dataset(folder, points=(["end"], ["tip"])).annotations(INDEX).sets["points"]
    assert (found.left, found.right) == ((1,), (0,))


@pytest.mark.parametrize("category", [None, [3], 4, 6])
def test_annotations_of_no_category_with_names(folder: Path, category: object) -> None:
    coco(folder, "coco.json", [1, 2, 2, 3, 4, 2], ["tip", "end"], category)
    assert dataset(folder, points=([1], [0])).annotations(INDEX).sets["points"].left == (1,)
    with pytest.raises(ParamsError, match="it has no names, so give numbers, 0 to 1"):
        dataset(folder, points=(["end"], ["tip"])).annotations(INDEX)


# --- the normaliser ---


def test_a_normaliser_by_names_and_numbers(folder: Path) -> None:
    three(folder)
    found = dataset(folder, **{"Eyes_2-b": (["l"], [1])}).annotations(INDEX)
    assert (found.sets["Eyes_2-b"].left, found.sets["Eyes_2-b"].right) == ((0,), (1,))
    assert found.sets["Eyes_2-b"].spanned and not found.sets["points"].spanned


@pytest.mark.parametrize(
    ("normaliser", "words"),
    [
        ({"p68": ([0], [1])}, r": the folder has no mark-up 'p68'; there is Eyes_2-b, fur, points\."),
        ({"fur": ([0], [1])}, r"\.fur\.right: there is no point 1: the points of coco-fur\.json are 0 to 0\."),
        ({"fur": ([-1], [0])}, r"\.fur\.left: there is no point -1: "),
        ({"Eyes_2-b": (["L"], [0])}, r"\.Eyes_2-b\.left: 'L' is no point of landmarks-Eyes_2-b\.csv: it has l, r\."),
        (
            {"points": (["0"], [0])},
            r"\.points\.left: '0' is no point of landmarks\.csv: it has no names, so give numbers",
        ),
        ({"Eyes_2-b": ([0], ["l"])}, r"\.Eyes_2-b: has point 0 \('l'\) twice: name a point once, on one side\."),
        ({"Eyes_2-b": ([0, 0], [1])}, r"\.Eyes_2-b: has point 0 \('l'\) twice"),
    ],
)
def test_a_normaliser_of_points_that_are_not_there(folder: Path, normaliser: dict[str, Any], words: str) -> None:
    """It is said before any image is read."""
    three(folder)
    for run in (dataset(folder, **normaliser).files, lambda: dataset(folder, **normaliser).annotations(INDEX)):
        with pytest.raises(ParamsError, match=rf"^params\.yaml: datasets\.folder\.normaliser{words}") as caught:
            run()
        assert "\n" not in str(caught.value)


def test_a_normaliser_without_markups(folder: Path) -> None:
    with pytest.raises(ParamsError, match="the folder has no mark-up 'points'; there is none at all"):
        dataset(folder, points=([0], [1])).files()


def test_of_many_names_some_are_told(folder: Path) -> None:
    names = [f"p{n}" for n in range(50)]
    head = ",".join(["image", *(f"{axis}_{name}" for name in names for axis in "xy")])
    table(folder, "landmarks.csv", head, ",".join(["a.png", *["1"] * 100]))
    with pytest.raises(ParamsError, match=r"it has p0, p1, .*, p19 and 30 more\.$"):
        dataset(folder, points=(["nose"], [1])).annotations(INDEX)


# --- contradictions ---


def two(folder: Path, x: object, y: object, head: str = "image,x_nose,y_nose,x_tail,y_tail") -> Annotations:
    """Mark-ups of two people, who both mark the nose of b.png."""
    table(folder, "landmarks-anna.csv", "image,x_ear,y_ear,x_nose,y_nose", "b.png,90,70,20,30", "a.png,1,1,40,40")
    table(folder, "landmarks-ben.csv", head, f"b.png,{x},{y},5,5")
    return dataset(folder).annotations(INDEX)


@pytest.mark.parametrize(("x", "y"), [(20, 30), (45, 50), (20, 10), ("", "")])
def test_two_people_may_mark_a_point_a_little_apart(folder: Path, x: object, y: object) -> None:
    assert two(folder, x, y).images.tolist() == ["a.png", "b.png"]


@pytest.mark.parametrize(("x", "y"), [(45.5, 30), (20, 50.5), (20, 9)])
def test_a_point_in_two_places(folder: Path, x: float, y: float) -> None:
    """More than a quarter of the image's side apart."""
    words = r"anna\.csv: point 'nose' of image 'b\.png' lies at \(20, 30\), but in .*\.csv at .*: correct one"
    with pytest.raises(DataError, match=words):
        two(folder, x, y)


@pytest.mark.parametrize("head", ["image,x_snout,y_snout,x_tail,y_tail", "image,x0,y0,x1,y1"])
def test_points_of_other_names_and_numbers_may_lie_anywhere(folder: Path, head: str) -> None:
    assert len(two(folder, 90, 70, head).sets) == 2
