"""What a user can get wrong, through the stage scripts: one clear error with the remedy, or the run goes on.

Here is a mistake of each kind of input; tests/datasets, tests/base/test_params.py and tests/diffusion have the others.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from smoke.project import Project, refused
from tests.models.test_aggregator import save_checkpoint

ROWS = ["mean_shape", "zeroshot", "duld", "duld_pp", "pixels"]


def test_an_empty_folder(fresh: Project) -> None:
    shutil.rmtree(fresh.root / "photos")
    (fresh.root / "photos").mkdir()
    refused(fresh.stage("data"), "photos holds no image", "put")


def spoil(project: Project) -> None:
    """A truncated, an empty and a mislabelled file among the good ones."""
    photos = project.root / "photos"
    (photos / "p00/0.png").write_bytes((photos / "p00/0.png").read_bytes()[:500])
    (photos / "p01/0.png").write_bytes(b"")
    (photos / "p03/0.png").write_text("no image")


def test_bad_files_are_reported_and_left_out_and_small_photographs_are_enlarged(fresh: Project) -> None:
    spoil(fresh)
    fresh.set(**{"datasets.folder.max_bad": 0.2, "roi.crop": 128})
    assert fresh.stage("data").returncode == 0
    index = pd.read_csv(fresh.root / "artifacts/data/index.csv").set_index("image")
    assert index.index[index["status"] == "unreadable"].tolist() == ["p00/0.png", "p01/0.png", "p03/0.png"]
    assert index.loc["p01/0.png", "reason"] != ""
    assert (index["status"] == "ok").sum() == 21
    assert fresh.stage("roi").returncode == 0
    assert len(pd.read_csv(fresh.root / "artifacts/roi/boxes.csv")) == 21


def test_too_many_bad_files(fresh: Project) -> None:
    spoil(fresh)
    refused(fresh.stage("data"), "3 of 24 files", "p00/0.png", "p01/0.png", "p03/0.png", "max_bad")


def test_a_wrong_annotation(fresh: Project) -> None:
    path = fresh.root / "photos/landmarks.csv"
    marks = pd.read_csv(path)
    marks.loc[3, "x2"] = 4000.0
    marks.to_csv(path, index=False)
    refused(fresh.stage("data"), "landmarks.csv", "p01/1.png", "point 2", "(4000,", "far outside")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    max_bad:", "    max_bat:", ["datasets.folder.max_bat", "misspelt", "datasets.folder.max_bad"]),
        ("dataset: folder", "dataset: foldr", ["'foldr' is no data set", "orl, faces3d, folder"]),
    ],
)
def test_a_wrong_key(fresh: Project, old: str, new: str, words: list[str]) -> None:
    path = fresh.root / "params.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    refused(fresh.stage("data"), *words)


def test_more_landmarks_than_points(project: Project) -> None:
    project.set(**{"rows.zeroshot.landmarks": 100_000})
    refused(project.stage("discover", "zeroshot"), "100000 clusters of 4800 points", "fewer landmarks")


def test_two_files_that_contradict_each_other(fresh: Project) -> None:
    photos = fresh.root / "photos"
    (photos / "landmarks-anna.csv").write_text("image,x_nose,y_nose\np00/0.png,20,30\n")
    (photos / "landmarks-ben.csv").write_text("image,x_nose,y_nose\np00/0.png,60,30\n")
    words = ["landmarks-anna.csv", "'nose'", "'p00/0.png'", "(20, 30)", "landmarks-ben.csv", "(60, 30)", "correct one"]
    refused(fresh.stage("data"), *words)


def test_a_yaw_out_of_range(fresh: Project) -> None:
    path = fresh.root / "photos/split.csv"
    pd.read_csv(path).assign(yaw=[200.0, *[0.0] * 23]).to_csv(path, index=False)
    refused(fresh.stage("data"), "split.csv, line 2: yaw '200.0' lies outside -180 to 180 degrees", "correct it")


def test_a_protocol_that_needs_other_points(project: Project) -> None:
    """It is no error: all else is scored, and the reason stands in the metrics and on the page."""
    project.set(**{"evaluate.protocols": ["canonical", "tusk-wild"]})
    reason = "needs 5 points, this mark-up has 6"
    assert f"tusk-wild points is not scored: {reason}" in project.stages(*(f"regress@{row}" for row in ROWS))
    project.stages(*(f"evaluate@{row}" for row in ROWS), "report")
    for row in ROWS:
        tree = project.metrics(row)
        assert tree["canonical"]["points"]["dense"] and "tusk-wild" not in tree
        assert tree["unscored"]["tusk-wild"] == {"points": reason}
    assert f"<code>tusk-wild.points</code> (every row): {reason}" in (project.root / "report/index.html").read_text()


# --- starts ---


# of the aggregator's weights: the smoke run has two layers of 32 and 16 channels, at one timestep
CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "is missing: put the checkpoint there"),
    "another format": (lambda path: torch.save({"state_dict": {}}, path), "is no checkpoint of Diffusion Hyper"),
    "too few layers": (lambda path: save_checkpoint(path, (32,), 2), "was made for other features: bottleneck"),
    "NaN": (
        lambda path: save_checkpoint(path, (32, 16), 2, mixing_weights=torch.tensor([1, torch.nan])),
        "is damaged, mixing_weights is not finite",
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit(project: Project, kind: str) -> None:
    """What an earlier run has made of the start stays."""
    write, words = CHECKPOINTS[kind]
    before = project.files("artifacts/rounds/silk")
    (project.root / "weights").mkdir()
    write(project.root / "weights/published.pt")
    project.set(**{"starts.silk.network.published": "weights/published.pt", "starts.silk.network.hidden": 32})
    refused(project.stage("bootstrap", "silk"), f"weights/published.pt {words}", "published to null")
    assert project.files("artifacts/rounds/silk") == before


# --- backbone, layers, stores ---


def test_a_backbone_without_unet(project: Project) -> None:
    shutil.copytree(project.root / "artifacts/backbone", project.root / "weights/mine")
    shutil.rmtree(project.root / "weights/mine/unet")
    project.set(backbone="sd15", **{"backbones.sd15.path": "weights/mine"})
    refused(project.stage("backbone"), "weights/mine", "'unet/'")


def test_a_layer_that_does_not_exist(project: Project) -> None:
    project.set(**{"readout.layers": [[0, 1], [7, 0]]})
    refused(project.stage("features", "trained"), "layers [(7, 0)] do not exist", "(1, 1)")


def test_features_of_other_crops(project: Project) -> None:
    project.set(**{"roi.margin": 0.2})
    assert project.stage("roi").returncode == 0
    refused(project.stage("bootstrap", "frozen"), "artifacts/features/trained.zarr", "crops:", "dvc repro features")


def test_from_the_shell(fresh: Project) -> None:
    """The exit code and the words that reach a shell are those that the other tests see in their own process."""
    fresh.set(source="elsewhere")
    refused(fresh.attempt("python", "-m", "stages.data"), "elsewhere is no folder", "source")
