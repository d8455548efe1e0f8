"""Annotation readers."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld.base.errors import DataError
from uld.datasets import coco as coco_file
from uld.datasets import markup


def index(names: list[str], status: str = "ok", width: int = 100, height: int = 50) -> pd.DataFrame:
    return pd.DataFrame({"image": names, "width": width, "height": height, "status": status})


def csv(tmp_path: Path, *lines: str, header: str = "image,x0,y0,x1,y1") -> Path:
    path = tmp_path / "landmarks.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_wide_csv(tmp_path: Path) -> None:
    marks = markup.from_csv(csv(tmp_path, "b.png,1,2,,", "a.png,3.5,4,5,6"))
    marks = markup.check(marks, index(["a.png", "b.png", "c.png"]))
    assert list(marks.images) == ["a.png", "b.png"]
    np.testing.assert_array_equal(marks.xy, np.array([[[3.5, 4], [5, 6]], [[1, 2], [np.nan, np.nan]]], np.float32))


def test_columns_may_stand_in_any_order_beside_others(tmp_path: Path) -> None:
    marks = markup.from_csv(csv(tmp_path, "7,2,1,a.png", header="who,y0,x0,image"))
    assert marks.xy.tolist() == [[[1, 2]]]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["a.png,1,2,3,4", "b.png,1,2"], "line 3: 3 cells"),
        (["a.png,1,2,3,4,5"], "line 2: 6 cells"),
        (["a.png,1,2,3,4", "b.png,1,2,oops,4"], "line 3: 'oops' in column x1"),
        (["z.png,1,2,3,4"], "'z.png' is no file"),
        (["a.png,1,2,3,4", "a.png,1,2,3,4"], "'a.png' is annotated twice"),
        (["a.png,1,2,3,"], "point 1 .*half absent"),
        (["a.png,1,inf,3,4"], "point 0 .*infinite"),
        (["a.png,1,2,3,4", "b.png,1,2,3,90"], "'b.png', point 1 .*far outside"),
        (["a.png,-60,2,3,4"], "'a.png', point 0 .*far outside"),
    ],
)
def test_unfit_lines_are_named(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(DataError, match=why):
        markup.check(markup.from_csv(csv(tmp_path, *lines)), index(["a.png", "b.png"]))


@pytest.mark.parametrize("header", ["image,x0,y0,x2,y2", "image", "x0,y0", "image,x0"])
def test_unfit_headers(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="needs the columns"):
        markup.from_csv(csv(tmp_path, ",".join("1" * len(header.split(","))), header=header))


@given(x=st.floats(-50.4, 149.4), y=st.floats(-25.4, 74.4))
def test_up_to_half_a_side_outside_passes(x: float, y: float) -> None:
    marks = markup.Marks(Path("l.csv"), np.array(["a.png"], dtype=object), np.array([[[x, y]]], np.float32))
    assert len(markup.check(marks, index(["a.png"])).images) == 1


def test_marks_of_images_kept_out_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = index(["a.png", "b.png", "c.png"])
    table.loc[1, ["status", "width", "height"]] = ["unreadable", 0, 0]
    marks = markup.from_csv(csv(tmp_path, "a.png,1,2,3,4", "b.png,1,2,3,4", "c.png,,,,"))
    assert list(markup.check(marks, table).images) == ["a.png"]
    assert "1 annotated images" in caplog.text


def coco(tmp_path: Path, *annotations: dict[str, Any]) -> Path:
    tree = {"images": [{"id": 7, "file_name": "d/a.png"}, {"id": 8, "file_name": "b.png"}], "annotations": annotations}
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    return tmp_path / "coco.json"


def test_coco_visibility_and_the_largest_object(tmp_path: Path) -> None:
    path = coco(
        tmp_path,
        {"id": 1, "image_id": 7, "area": 5, "keypoints": [9, 9, 2, 9, 9, 2]},
        {"id": 2, "image_id": 7, "area": 50, "keypoints": [1, 2, 1, 0, 0, 0]},
        {"id": 3, "image_id": 8, "area": 1, "keypoints": [3, 4, 2, 5, 6, 2]},
        {"id": 4, "image_id": 8, "area": 99, "bbox": [1, 2, 3, 4]},
    )
    marks = markup.check(coco_file.read(path), index(["b.png", "d/a.png"]))
    assert list(marks.images) == ["b.png", "d/a.png"]
    np.testing.assert_array_equal(marks.xy[0], [[3, 4], [5, 6]])
    np.testing.assert_array_equal(marks.xy[1], [[1, 2], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        ([{"id": 5, "image_id": 7, "keypoints": [1, 2]}], "annotation 5 has 2 keypoint values"),
        (
            [{"image_id": 7, "keypoints": [1, 2, 2]}, {"id": 6, "image_id": 8, "keypoints": [1, 2, 2] * 2}],
            "annotation 6",
        ),
        ([{"id": 9, "image_id": 70, "keypoints": [1, 2, 2]}], "annotation 9: .* image id 70"),
        ([{"id": 9, "image_id": 7, "keypoints": ["a", 2, 2]}], "no number"),
        ([{"id": 9, "keypoints": [1, 2, 2]}], "no COCO keypoints file.*image_id"),
        ([], "no annotation with keypoints"),
    ],
)
def test_unfit_coco_is_named(tmp_path: Path, annotations: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(DataError, match=why):
        coco_file.read(coco(tmp_path, *annotations))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}'])
def test_no_coco_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(DataError, match="no COCO keypoints file"):
        coco_file.read(tmp_path / "coco.json")


def test_a_hundred_thousand_images_are_checked_in_a_moment() -> None:
    names = np.array([f"d/{i:06}.jpg" for i in range(100_000)], dtype=object)
    marks = markup.Marks(Path("l.csv"), names[::-1], np.full((100_000, 10, 2), 20, np.float32))
    start = time.perf_counter()
    assert len(markup.check(marks, index(list(names))).images) == 100_000
    assert time.perf_counter() - start < 4
