"""The stages `regress` and `evaluate` on small files."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uld.artifacts.annotations import Annotations, AnnotationSet, write_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import write_json, write_table
from uld.artifacts.found import Found
from uld.artifacts.predictions import Predictions, Warped, read_predictions, write_predictions
from uld.base.errors import ArtifactError

ROOT = Path(__file__).parents[2]
N, TRAIN, K = 60, 40, 4

PARAMS = """
seed: 0
evaluate: {protocols: [canonical, k2l-mafl, tusk-wild], pck: [0.05, 0.1], raw: 0.2, ced_limit: 0.2, bootstrap: 50,
  warps: {count: 1, rotate: 20, scale: 0.15, shift: 0.05}}
"""
REST = {"split": "test", "group": "", "sha256": "", "status": "ok", "reason": ""}  # of index.csv, read by other stages


def stage(name: str, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, row])
    module.main()


def write_row(row: str, landmarks: np.ndarray, gaps: bool = False, dense: np.ndarray | None = None) -> None:
    images = np.array([f"i{n:03d}.png" for n in range(N)], dtype=object)
    split = np.array(["train"] * TRAIN + ["test"] * (N - TRAIN), dtype=object)
    xy = landmarks.astype(np.float32)
    dense = xy.copy() if dense is None else dense.astype(np.float32)
    if gaps:
        xy[::4, 0] = np.nan
    score = np.ones(dense.shape[:2], dtype=np.float32)
    warped = Warped(np.arange(TRAIN, N), dense[TRAIN:, None] + 1)
    one = Predictions(images, split, Found(xy, score, dense, score), warped)
    write_predictions(Path(f"artifacts/predictions/{row}.h5"), one)
    write_json(Path(f"artifacts/landmarks/{row}/quality.json"), {"silhouette": 0.5, "points": 9})


@pytest.fixture
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A project folder with two table rows; returns the annotated points (N, 5, 2)."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    shape = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]])
    xy = shape + rng.normal(size=(N, 1, 2)) * 5 + rng.normal(size=(N, 5, 2))
    images = [f"i{n:03d}.png" for n in range(N)]
    split = ["train"] * TRAIN + ["test"] * (N - TRAIN)
    boxes = pd.DataFrame({"image": images, "split": split, "x1": 0, "y1": 0, "x2": 100, "y2": 100})
    write_table(Path("artifacts/roi/boxes.csv"), boxes.assign(score=1.0, provider="full"))
    missing = pd.DataFrame({"image": ["lost.png"], "split": ["test"], "reason": ["no box"]})
    write_table(Path("artifacts/roi/missing.csv"), missing)
    index = pd.DataFrame({"image": [*images, "lost.png"], "width": 120, "height": 110, **REST})
    write_table(Path("artifacts/data/index.csv"), index)
    annotate(xy)
    Path("params.yaml").write_text(PARAMS)
    write_row("found", xy[:, :K] + 3, gaps=True)
    write_row("mean_shape", np.zeros((N, 0, 2)))
    return xy


def annotate(xy: np.ndarray, name: str = "p5") -> None:
    images = np.array([f"i{n:03d}.png" for n in range(N)][::-1], dtype=object)
    sets = {name: AnnotationSet(xy[::-1].astype(np.float32), (0,), (1,))}
    write_annotations(Path("artifacts/data/annotations.h5"), Annotations(images, sets))


def run(row: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    stage("regress", row, monkeypatch)
    stage("evaluate", row, monkeypatch)
    return json.loads(Path(f"metrics/{row}.json").read_text())


def leaves(tree: dict[str, Any]) -> list[Any]:
    return [leaf for value in tree.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]


def test_a_row_with_gaps(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = run("found", monkeypatch)
    assert tree["images"] == {"train": TRAIN, "test": N - TRAIN, "missed": 1}
    assert tree["landmarks"] == K
    assert tree["clusters"] == {"silhouette": 0.5, "points": 9}
    assert tree["stability"] == pytest.approx(100 * np.sqrt(2) / 100)
    assert tree["detection_rate"] == pytest.approx(1 - 0.25 / 4)
    assert tree["canonical"]["rule"]["ridge"] == 1e-3
    p5 = tree["canonical"]["p5"]
    assert list(p5["dense"]) == ["all", "raw"]  # 40 images can't serve 300 rows
    dense = p5["dense"]["all"]
    assert 0 < dense["forward_low"] <= dense["forward_nme"] <= dense["forward_high"] < 4
    assert 0 < dense["backward_nme"] < 2
    assert set(dense["pck"]) == {"at05", "at10"}
    assert p5["dense"]["raw"] == {"accuracy": 1.0, "matched": K}
    assert p5["detected"]["raw"]["accuracy"] < 1
    assert p5["detected"]["all"]["forward_nme"] > dense["forward_nme"]
    assert tree["tusk-wild"]["p5"]["dense"]["all"]["forward_nme"] > 0
    few = {"p5": {"n300": f"needs 300 annotated training images, may use {TRAIN}"}}
    surplus = {"p5": {"n300": f"needs 301 annotated training images, may use {TRAIN}"}}
    assert tree.pop("unscored") == {"canonical": few, "k2l-mafl": surplus}
    assert all(type(leaf) in (int, float) for leaf in leaves(tree))


def test_the_dense_match_fills_the_gaps_of_detection_and_nothing_else(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense matches are wrong where there is a detection, and right where there is none."""
    right = truth[:, :K] + 3
    lost = np.zeros((N, K), dtype=bool)
    lost[::4, 0] = True
    noise = np.random.default_rng(1).normal(size=right.shape) * 30
    write_row("found", np.where(lost[..., None], np.nan, right), dense=np.where(lost[..., None], right, right + noise))
    found = run("found", monkeypatch)["canonical"]["p5"]
    write_row("whole", right)
    whole = run("whole", monkeypatch)["canonical"]["p5"]
    assert found["filled"] == whole["dense"] == whole["filled"] == whole["detected"]
    assert found["dense"]["all"]["forward_nme"] > 1.5 * found["filled"]["all"]["forward_nme"]
    assert found["detected"]["all"]["forward_nme"] > 1.01 * found["filled"]["all"]["forward_nme"]


def test_its_curves(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = run("found", monkeypatch)
    curves = {name: pd.read_csv(f"plots/found/{name}.csv") for name in ("ced", "cumulative", "landmarks")}
    one = {"protocol": "canonical", "set": "p5", "points": "dense", "rows": "all", "direction": "forward"}
    chosen = {name: frame[(frame[list(one)] == pd.Series(one)).all(axis=1)] for name, frame in curves.items()}
    assert list(curves["ced"]) == [*one, "threshold", "fraction"]
    assert len(chosen["ced"]) == 101
    figure = tree["canonical"]["p5"]["dense"]["all"]
    assert chosen["cumulative"]["nme"].iloc[-1] == pytest.approx(figure["forward_nme"], rel=1e-4)
    assert chosen["landmarks"]["nme"].mean() == pytest.approx(figure["forward_nme"], rel=1e-4)
    assert chosen["landmarks"]["matched"].tolist()[:K] == list(range(K))
    assert chosen["landmarks"]["matched"].isna().tolist() == [False] * K + [True]


def test_curves_of_every_number_of_regressor_rows(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of 25 images stands for that of 300."""
    monkeypatch.setattr("uld.evaluate.protocols.Protocol.takes", lambda protocol, rows: 25)
    index = pd.read_csv("artifacts/data/index.csv")
    write_table(Path("artifacts/data/index.csv"), index.assign(yaw=np.arange(len(index)) - 30.0))
    tree = run("found", monkeypatch)["canonical"]["p5"]["detected"]
    tables = {name: pd.read_csv(f"plots/found/{name}.csv") for name in ("ced", "cumulative", "landmarks", "yaw")}
    last = tables["cumulative"].groupby(["protocol", "points", "rows", "direction"])["nme"].last()
    for rows in ("all", "n300"):
        for way in ("forward", "backward"):
            assert last["canonical", "detected", rows, way] == pytest.approx(tree[rows][f"{way}_nme"], rel=1e-4)
    assert tree["all"]["forward_nme"] != tree["n300"]["forward_nme"]
    for table in tables.values():
        lines = table.groupby(["protocol", "rows"]).size()
        assert lines["canonical", "all"] == lines["canonical", "n300"]
        assert set(lines["tusk-wild"].index) == {"all"}
    one = tables["yaw"].query("protocol == 'canonical' and points == 'detected' and direction == 'forward'")
    of_all = one.loc[one["rows"] == "all", ["range", "nme"]].to_numpy().tolist()
    assert of_all == [[span, pytest.approx(tree["yaw"][span]["forward_nme"], rel=1e-4)] for span, _ in of_all]


def test_no_landmark_at_all(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = run("mean_shape", monkeypatch)
    assert not {"detection_rate", "stability", "distinct", "tusk-wild"} & set(tree)
    assert tree["unscored"]["tusk-wild"] == {"p5": "needs a landmark: its map has no intercept"}
    figure = tree["canonical"]["p5"]["dense"]["all"]
    assert not any(key.startswith("backward") for key in figure)
    annotated = truth.astype(np.float32).astype(np.float64)
    shape = annotated[:TRAIN].mean(axis=0)
    test = annotated[TRAIN:]
    eyes = np.linalg.norm(test[:, 0] - test[:, 1], axis=1)[:, None]
    assert figure["forward_nme"] == pytest.approx(100 * (np.linalg.norm(test - shape, axis=2) / eyes).mean(), rel=1e-4)


def test_unlabelled(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_annotations(Path("artifacts/data/annotations.h5"), Annotations(np.array([], dtype=object)))
    tree = run("found", monkeypatch)
    assert set(tree) == {"images", "landmarks", "detection_rate", "stability", "distinct", "clusters", "unscored"}
    assert tree["unscored"] == dict.fromkeys(["canonical", "k2l-mafl", "tusk-wild"], "there are no annotations")
    said = capsys.readouterr().out
    assert "NME needs annotations" in said
    assert "canonical is not scored: there are no annotations" in said
    assert Path("plots/found/ced.csv").read_text() == "protocol,set,points,rows,direction,threshold,fraction\n"


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.s_[:TRAIN], "needs 2 annotated training images, may use 0"),
        (np.s_[1:TRAIN], "needs 2 annotated training images, may use 1"),
        (np.s_[TRAIN:], "needs an annotated test image, there is none"),
        (np.s_[TRAIN:, 1], f"its normaliser is defined in none of the annotated test images ({N - TRAIN})"),
    ],
)
def test_annotations_that_cannot_be_scored_say_why(
    truth: np.ndarray, points: Any, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Point 1 is one of the eyes, whose distance is the normaliser."""
    truth[points] = np.nan
    annotate(truth)
    tree = run("found", monkeypatch)
    assert "canonical" not in tree
    assert tree["unscored"] == {name: {"p5": reason} for name in ("canonical", "k2l-mafl", "tusk-wild")}
    said = capsys.readouterr().out
    assert f"canonical p5 is not scored: {reason}" in said
    assert "`unscored` in metrics/found.json says why" in said


def test_a_protocol_that_keeps_training_images_back_counts_those_it_uses(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first 90 % of two images are one."""
    Path("params.yaml").write_text(PARAMS.replace("k2l-mafl", "jakab"))
    truth[2:TRAIN] = np.nan
    annotate(truth)
    tree = run("found", monkeypatch)
    assert tree["unscored"]["jakab"] == {"p5": "needs 2 annotated training images, may use 1"}
    assert tree["canonical"]["p5"]["images"]["train"] == 2


def test_sparse_annotations(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    truth[::3, 2] = np.nan
    truth[1::5, 0] = np.nan
    truth[7] = np.nan
    annotate(truth)
    figure = run("found", monkeypatch)["canonical"]["p5"]
    assert figure["images"] == {"train": TRAIN - 1, "test": (N - TRAIN) - 4}  # four test images lack an eye
    assert 0 < figure["dense"]["all"]["forward_nme"] < 8


def test_same_inputs_same_bytes(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs() -> list[bytes]:
        run("found", monkeypatch)
        files = ["artifacts/regressors/found.h5", "metrics/found.json", "plots/found/landmarks.csv"]
        return [Path(one).read_bytes() for one in files]

    assert outputs() == outputs()


def test_protocols_of_five_points_look_at_their_number_and_not_at_the_name(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("params.yaml").write_text(PARAMS.replace("k2l-mafl", "jakab"))
    named = run("found", monkeypatch)
    annotate(truth, "points")
    own = run("found", monkeypatch)
    for protocol in ("tusk-wild", "jakab"):
        assert own[protocol]["points"] == named[protocol]["p5"]
    annotate(truth[:, :4], "p5")
    tree = run("found", monkeypatch)
    assert not {"tusk-wild", "jakab"} & set(tree)
    few = {"p5": "needs 5 points, this mark-up has 4"}
    assert tree["unscored"]["tusk-wild"] == tree["unscored"]["jakab"] == few


def test_regressors_of_other_protocols(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    stage("regress", "found", monkeypatch)
    Path("params.yaml").write_text(PARAMS.replace("k2l-mafl", "cgb"))
    with pytest.raises(ArtifactError, match=r"no regressor for cgb/p5/dense/all: run `dvc repro regress`"):
        stage("evaluate", "found", monkeypatch)


def test_a_regressor_that_is_lacking(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """More annotations than there were when the regressors were fitted: 300 rows can be had now."""
    stage("regress", "found", monkeypatch)
    monkeypatch.setattr("uld.evaluate.protocols.Protocol.takes", lambda protocol, rows: rows // 10)
    with pytest.raises(ArtifactError, match=r"no regressor for canonical/p5/dense/n300: run `dvc repro regress`"):
        stage("evaluate", "found", monkeypatch)


def test_boxes_of_other_images(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = read_boxes(Path("artifacts/roi/boxes.csv"))
    write_table(Path("artifacts/roi/boxes.csv"), boxes.iloc[1:])
    with pytest.raises(ArtifactError, match=r"dvc repro predict@found"):
        stage("regress", "found", monkeypatch)


def test_a_landmark_row_that_is_never_detected(truth: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("artifacts/predictions/found.h5")
    one = read_predictions(path)
    write_predictions(path, replace(one, found=replace(one.found, xy=np.full_like(one.found.xy, np.nan))))
    tree = run("found", monkeypatch)
    assert tree["detection_rate"] == 0
    detected = tree["canonical"]["p5"]["detected"]
    mean_shape = run("mean_shape", monkeypatch)["canonical"]["p5"]["dense"]["all"]["forward_nme"]
    assert detected["all"]["forward_nme"] == pytest.approx(mean_shape, rel=1e-4)
    assert "backward_nme" not in detected["all"] and "raw" not in detected


def test_raw_landmarks_are_matched_on_training_and_scored_on_test_images(
    truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    landmarks = truth[:, [2, 0, 1, 4]].copy()
    landmarks[TRAIN + 5 :] += 500
    write_row("found", landmarks)
    assert run("found", monkeypatch)["canonical"]["p5"]["dense"]["raw"] == {"accuracy": 0.25, "matched": K}
    table = pd.read_csv("plots/found/landmarks.csv")
    first = table[(table["protocol"] == "canonical") & (table["points"] == "dense") & (table["direction"] == "forward")]
    assert first["matched"].fillna(-1).tolist() == [1, 2, 0, -1, 3]
