"""Protocol table, frames, normalisers, joins."""

import numpy as np
import pytest

from uld.artifacts.annotations import Annotations, AnnotationSet, align
from uld.base.errors import ParamsError
from uld.evaluate.cases import normaliser, to_frame
from uld.evaluate.protocols import PROTOCOLS, choose

CANONICAL = PROTOCOLS["canonical"]


def test_an_unknown_protocol_is_named_with_the_choices() -> None:
    with pytest.raises(ParamsError, match=r"evaluate\.protocols: 'k2l' is unknown; there: canonical"):
        choose(("canonical", "k2l"))


def test_protocol_numbers_fit_a_metrics_file() -> None:
    for name, protocol in PROTOCOLS.items():
        assert "." not in name
        assert all(type(value) in (int, float) for value in protocol.numbers().values())
    assert CANONICAL.numbers()["ridge"] == 1e-3
    assert CANONICAL.numbers()["centred"] == 1


def test_frames() -> None:
    boxes, sizes = np.array([[10.0, 20, 30, 60]]), np.array([[100.0, 50]])
    xy = np.array([[[10, 20], [20, 40], [30, 60]]], dtype=np.float32)
    np.testing.assert_array_equal(to_frame("image", xy, boxes, sizes), xy)
    np.testing.assert_allclose(to_frame("roi", xy, boxes, sizes)[0], [[0, 0], [0.5, 0.5], [1, 1]])
    corners = np.array([[[-0.5, -0.5], [99.5, 49.5]]])
    np.testing.assert_allclose(to_frame("photo", corners, boxes, sizes)[0], [[0, 0], [1, 1]])


def test_normalisers() -> None:
    xy = np.array([[[0, 0], [2, 0], [10, 0], [12, 0], [0, 5]]], dtype=np.float64)
    eyes = AnnotationSet(xy, (0, 1), (2, 3))
    assert normaliser(CANONICAL, eyes, xy) == pytest.approx(10)
    assert normaliser(CANONICAL, AnnotationSet(xy), xy) == pytest.approx(np.sqrt(12 * 5))
    assert normaliser(PROTOCOLS["cgb-box"], eyes, xy) == pytest.approx(np.sqrt(12 * 5))
    assert normaliser(PROTOCOLS["k2l-mafl"], eyes, xy) == pytest.approx(2)  # points 0 and 1 of five


def test_where_there_is_no_scale_the_normaliser_is_nan() -> None:
    xy = np.array([[[0, 0], [0, 0], [1, 1]], [[np.nan] * 2, [1, 1], [2, 2]], [[np.nan] * 2] * 3])
    assert np.isnan(normaliser(CANONICAL, AnnotationSet(xy, (0,), (1,)), xy)).tolist() == [True, True, True]
    assert np.isnan(normaliser(CANONICAL, AnnotationSet(xy), xy)).tolist() == [False, False, True]


def test_annotations_are_joined_by_id() -> None:
    xy = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    annotations = Annotations(np.array(["b", "a"], dtype=object), {"p": AnnotationSet(xy, (0,), (1,))})
    one = align(annotations, np.array(["a", "x", "b"], dtype=object))["p"]
    np.testing.assert_array_equal(one.xy[[0, 2]], xy[[1, 0]])
    assert np.isnan(one.xy[1]).all() and one.left == (0,)
    empty = Annotations(np.array([], dtype=object), {"p": AnnotationSet(np.zeros((0, 3, 2), dtype=np.float32))})
    assert align(empty, np.array(["a"], dtype=object)) == {}
