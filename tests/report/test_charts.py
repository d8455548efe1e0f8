"""Charts: their geometry, and that they are files without a clock."""

import struct
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uld.artifacts.landmarks import Landmarks
from uld.report import charts


def chunks(png: bytes) -> set[bytes]:
    """Kinds of chunks in a PNG file."""
    kinds, at = set(), 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kinds.add(png[at + 4 : at + 8])
        at += 12 + length
    return kinds


def landmarks(clusters: int, dimensions: int) -> Landmarks:
    rng = np.random.default_rng(0)
    label = rng.integers(0, max(clusters, 1), 90)
    return Landmarks(
        np.zeros((clusters, dimensions), np.float32),
        np.full(clusters, 9),
        np.zeros((clusters, 1), np.int64),
        np.zeros((clusters, 1, 2), np.float32),
        rng.normal(size=(90, dimensions)).astype(np.float16),
        label,
    )


def test_plane_finds_the_two_widest_axes() -> None:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    x = rng.normal(size=(4000, 5)) * [9, 5, 1, 1, 1]
    at, share = charts.plane(x @ turn + 7)
    assert share == pytest.approx([81 / 109, 25 / 109], abs=0.02)
    assert np.abs(np.corrcoef(at.T, x[:, :2].T)[:2, 2:]) == pytest.approx(np.eye(2), abs=0.05)
    again, _ = charts.plane(x @ turn)
    assert again == pytest.approx(at, abs=1e-6)


def test_plane_of_equal_points_is_a_point() -> None:
    at, share = charts.plane(np.ones((4, 3)))
    assert (at == 0).all()
    assert (share == 0).all()


CED = pd.DataFrame({"threshold": np.linspace(0, 0.2, 11), "fraction": np.linspace(0, 1, 11)})


YAW = pd.DataFrame({"range": ["left_half", "frontal"], "nme": [9.0, 4.0], "images": [3, 4]})
POSES = pd.DataFrame(
    {"method": ["a", "a", "b"], "number": [1, 2, 1], "range": ["overall"] * 3, "accuracy": [0.2, 0.5, 1]}
)
RAW = pd.DataFrame({"landmark": [0, 1, 2], "matched": [np.nan, 3, 0], "raw_accuracy": [np.nan, 0.5, 1]})


def test_no_two_rows_look_alike() -> None:
    looks = charts._looks([f"row{n}" for n in range(30)], "row3")
    assert len({(look["color"], look.get("linestyle")) for look in looks}) == 30


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.ced({"forward": {f"row{n}": CED for n in range(9)}, "backward": {"row3": CED}}, "row3"),
        lambda: charts.ced({"forward": {"mean_shape": CED}}, "absent"),
        lambda: charts.by_yaw({"forward": {"a": YAW, "b": YAW}, "backward": {"b": YAW[:1]}}, "b"),
        lambda: charts.pose_accuracy(POSES),
        lambda: charts.raw_accuracy(RAW),
        lambda: charts.cluster_map(landmarks(30, 64)),
        lambda: charts.cluster_map(landmarks(1, 2)),
        lambda: charts.landmark_errors(np.array([3.0, np.nan, 2.0])),
        lambda: charts.point_errors(np.arange(68.0)),
        lambda: charts.rounds({"duld": {"duld-1": {"labels": 3.0}, "duld-2": {"labels": 4.0, "label_change": 0.5}}}),
        lambda: charts.rounds({"a": {"a-1": {"detections": 1.0}}, "b": {"b-1": {}, "b-2": {}, "b-3": {}}}),
    ],
)
def test_charts_are_the_same_bytes_without_metadata(draw) -> None:  # type: ignore[no-untyped-def]
    png = draw()
    assert png == draw()
    assert chunks(png) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_a_row_looks_alike_in_all_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a panel lacks the rows before it."""
    monkeypatch.setattr(charts, "_png", lambda figure: figure)
    figure: Any = charts.by_yaw({"forward": {"a": YAW, "b": YAW, "c": YAW}, "backward": {"c": YAW, "b": YAW}}, "c")
    first, second = ({line.get_label(): line.get_color() for line in axes.get_lines()} for axes in figure.axes)
    assert len(set(first.values())) == 3 and second == {row: first[row] for row in ("c", "b")}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


@pytest.mark.parametrize(("rows", "name"), [(1, "duld"), (5, "zeroshot"), (20, "duld_pp_without_poses"), (9, 60 * "x")])
def test_both_ceds_and_the_names_of_all_rows_are_in_the_picture(
    rows: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Panels keep their size however many rows the legend has; a row without landmarks is in one of them only."""
    monkeypatch.setattr(charts, "_png", lambda figure: figure)
    forward = {f"{name}{n}": CED for n in range(rows)}
    backward = dict.fromkeys([*forward][1:], CED)
    figure: Any = charts.ced({"forward": forward, "backward": backward} if backward else {"forward": forward}, "x")
    figure.draw_without_rendering()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [*forward]
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in legend.get_texts())
    assert all(axes.get_window_extent().height > 3 * figure.dpi for axes in figure.axes)
    labels = [axes.get_xlabel().split()[0] for axes in figure.axes]
    assert labels == (["forward", "backward"] if backward else ["forward"])
    assert [len(axes.get_lines()) for axes in figure.axes] == [rows, rows - 1][: len(labels)]
