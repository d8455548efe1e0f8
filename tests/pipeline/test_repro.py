"""The run from photographs to a report, and what Git and DVC then say about it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from smoke.process import SEVERAL
from smoke.project import Project, ran
from uld.artifacts.annotations import read_annotations
from uld.artifacts.labels import read_labels
from uld.artifacts.predictions import read_predictions


@pytest.fixture(scope="module")
def asked(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy that DVC is asked about, and that stays as it is."""
    return finished.copy(tmp_path_factory.mktemp("asked") / "project")


def test_every_output_is_there(finished: Project) -> None:
    for name in (
        "artifacts/data/index.csv",
        "artifacts/roi/boxes.csv",
        "artifacts/backbone/unet/config.json",
        "artifacts/features/trained.zarr/zarr.json",
        "artifacts/rounds/frozen/model.json",
        "artifacts/rounds/silk/training.csv",
        "artifacts/labels/duld-1/labels.h5",
        "artifacts/rounds/duld-1/model.json",
        "artifacts/rounds/duld-1/training.csv",
        "artifacts/labels/duld_pp-1/labels.h5",
        "artifacts/rounds/duld_pp-1/model.json",
        "artifacts/landmarks/zeroshot/landmarks.h5",
        "artifacts/predictions/zeroshot.h5",
        "artifacts/detectors/zeroshot/detector.json",
        "artifacts/detectors/duld/model/model.safetensors",
        "artifacts/regressors/zeroshot.h5",
        "metrics/backbone.json",
        "metrics/starts/frozen.json",
        "metrics/starts/silk.json",
        "metrics/rounds/duld-1.json",
        "metrics/mean_shape.json",
        "plots/zeroshot/ced.csv",
        "report/index.html",
    ):
        assert (finished.root / name).stat().st_size > 0


def test_landmarks_say_more_about_a_face_than_the_mean_shape(finished: Project) -> None:
    zeroshot, mean = (
        finished.metrics(row)["canonical"]["points"]["dense"]["all"] for row in ("zeroshot", "mean_shape")
    )
    assert 0 < zeroshot["forward_nme"] < mean["forward_nme"]
    assert 0 < zeroshot["backward_nme"] < 50
    duld = finished.metrics("duld")["canonical"]["points"]
    assert 0 < duld["dense"]["all"]["forward_nme"] < mean["forward_nme"]
    assert 0 < duld["filled"]["all"]["forward_nme"] < mean["forward_nme"]
    assert "backward_nme" not in mean


def test_forward_nme_of_the_mean_shape_by_hand(finished: Project) -> None:
    """The mean of the training annotations in image pixels, errors over the root of the box area, in percent."""
    marks = read_annotations(finished.root / "artifacts/data/annotations.h5")
    split = pd.read_csv(finished.root / "photos/split.csv").set_index("image").loc[list(marks.images), "split"]
    xy = marks.sets["points"].xy
    test = xy[(split == "test").to_numpy()]
    guess = xy[(split == "train").to_numpy()].mean(0)
    size = np.sqrt(np.prod(test.max(1) - test.min(1), axis=1))
    expected = 100 * (np.linalg.norm(test - guess, axis=2).mean(1) / size).mean()
    told = finished.metrics("mean_shape")["canonical"]["points"]["dense"]["all"]["forward_nme"]
    np.testing.assert_allclose(told, expected, rtol=1e-4)


def test_predictions_lie_in_the_photographs(finished: Project) -> None:
    predictions = read_predictions(finished.root / "artifacts/predictions/zeroshot.h5")
    assert predictions.found.xy.shape == (24, 10, 2)
    assert predictions.warped.rows.tolist() == np.flatnonzero(predictions.split == "test").tolist()
    assert predictions.warped.xy.shape == (8, 2, 10, 2)
    assert predictions.found.dense_xy.min() > -0.5
    assert predictions.found.dense_xy.max() < 80


def test_a_round_trains_on_the_labels_of_both_flips(finished: Project) -> None:
    """Labels of the training images and of their mirror images; the model of the round keeps what it was trained on."""
    labels = read_labels(finished.root / "artifacts/labels/duld-1/labels.h5")
    split = pd.read_csv(finished.root / "artifacts/roi/boxes.csv")["split"].to_numpy()
    for flipped in (False, True):
        image = labels.image[labels.flipped == flipped]
        assert set(image) == set(np.flatnonzero(split == "train"))
    assert set(labels.label) == set(range(10))
    files = finished.files("artifacts")
    assert files["rounds/duld-1/labels.h5"] == files["labels/duld-1/labels.h5"]
    assert files["rounds/duld-1/model.safetensors"] != files["rounds/silk/model.safetensors"]
    for name in ("silk", "duld-1"):
        assert pd.read_csv(finished.root / f"artifacts/rounds/{name}/training.csv")["step"].tolist() == list(range(6))


def test_a_round_on_an_aggregator_that_rests(extended: Project) -> None:
    """The round teaches the heads and leaves the aggregator as the bootstrap did; its model is whole all the same."""
    store = extended.root / "artifacts/features/resting.zarr"
    assert {"aggregated", "base"} <= {path.name for path in store.iterdir()}
    names = ("silk", "duld-1", "resting-1")
    silk, free, rest = (load_file(extended.root / f"artifacts/rounds/{name}/model.safetensors") for name in names)
    assert silk.keys() == free.keys() == rest.keys()
    learned = {name.split(".")[0] for name in silk if not torch.equal(silk[name], rest[name])}
    assert learned == {"descriptor_head", "detector_head"}
    assert any(not torch.equal(silk[name], free[name]) for name in silk if name.startswith("aggregate."))


def test_the_report_shows_the_run(finished: Project) -> None:
    page = (finished.root / "report/index.html").read_text()
    assert "zeroshot" in page
    assert "mean_shape" in page
    assert "Rounds of self-training" in page
    assert str(finished.root) not in page


def test_a_second_run_does_nothing(asked: Project) -> None:
    said = asked.dvc("repro")
    assert ran(said) == []
    assert "up to date" in said
    assert asked.changed() == set()
    assert asked.run("git", "status", "--porcelain") == ""


def test_lock_file_and_git_hold_no_path_of_the_machine(finished: Project) -> None:
    place = str(finished.root)
    tracked = finished.run("git", "ls-files", "dvc.lock", "metrics", "plots").split()
    assert len(tracked) >= 11
    for name in tracked:
        assert place not in (finished.root / name).read_text(), name


def test_nothing_that_crosses_stages_holds_a_path_of_the_machine(finished: Project) -> None:
    place = str(finished.root).encode()
    assert [name for name, data in finished.files("artifacts").items() if place in data] == []


def test_running_stages_again_gives_the_same_bytes(extended: Project, tmp_path: Path) -> None:
    """In a process with other hashes, and without any output but the backbone (test_interrupts.py)."""
    stages = ["data", "roi", "features@trained", "bootstrap@silk", "aggregate@resting"]
    stages += [f"{stage}@{name}" for name in ("duld-1", "resting-1") for stage in ("cluster", "train")]
    stages += [f"{stage}@{row}" for row in ("duld", "resting") for stage in ("discover", "predict")]
    stages += ["bootstrap@frozen", "discover@zeroshot", "predict@zeroshot"]
    project = extended.copy(tmp_path / "project")
    for made in (project.root / "artifacts").iterdir():
        if made.name != "backbone":
            shutil.rmtree(made)
    project.run(sys.executable, "-c", SEVERAL, *stages, PYTHONHASHSEED="1")
    before, after = extended.files("artifacts"), project.files("artifacts")
    assert [name for name, data in after.items() if before[name] != data] == []
    assert len(after) > 60


def test_metrics_show(asked: Project) -> None:
    """Figures, and in words why some are not there."""
    shown = json.loads(asked.dvc("metrics", "show", "--json"))[""]["data"]
    zeroshot = shown["metrics/zeroshot.json"]["data"]
    assert zeroshot["landmarks"] == 10
    few = "needs 300 annotated training images, may use 16"
    assert zeroshot["unscored"] == {"canonical": {"points": {"n300": few}}}
    diff = json.loads(asked.dvc("metrics", "diff", "--all", "--json"))["metrics/zeroshot.json"]
    assert diff["unscored.canonical.points.n300"]["new"] == few
    assert "heldout_error" in shown["metrics/backbone.json"]["data"]


def test_plots_show_draws_the_ced(asked: Project) -> None:
    (drawn,) = json.loads(asked.dvc("plots", "show", "plots/zeroshot/ced.csv", "--json"))["data"].values()
    text = json.dumps(drawn[0]["content"]["encoding"]) + json.dumps(drawn[0]["content"].get("layer", []))
    assert '"field": "threshold"' in text, "the x axis of a CED is the error, not the line number"
    assert '"field": "fraction"' in text
    assert "loess" not in text, "a smoothed CED is another curve"


def test_results_table(finished: Project) -> None:
    said = finished.uld("table", "--format", "csv").splitlines()
    assert [line.split(",")[0] for line in said] == ["row", "mean_shape", "zeroshot", "duld", "duld_pp", "pixels"]
