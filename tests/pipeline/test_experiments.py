"""Experiments: one changed key runs what hangs on it and nothing else, and going back costs nothing.

One is queued, run and applied for real. Of the others DVC says which stages no longer have the params or inputs of
dvc.lock; what comes after these runs if their outputs differ, which is DVC's own rule.
"""

import json

import pytest

from smoke.project import Project, ran, restored
from uld.base import params

ROW = ["code", *(f"{stage}@zeroshot" for stage in ("discover", "predict", "regress", "evaluate")), "report"]


def test_an_option_of_the_report_runs_the_report(project: Project) -> None:
    project.set(**{"report.worst": 1})
    assert project.changed() == {"report"}


@pytest.fixture(scope="module")
def fewer(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A copy that applied a queued experiment with 8 landmarks, and what DVC said when it ran."""
    project = finished.copy(tmp_path_factory.mktemp("experiment") / "project")
    project.dvc("exp", "run", "--queue", "--name", "fewer", "--set-param", "rows.zeroshot.landmarks=8")
    code = project.root / "uld/evaluate/scores.py"
    kept = code.read_text()
    code.write_text("an edit after queueing\n")  # committed files run, not these
    said = project.dvc("exp", "run", "--run-all")
    code.write_text(kept)
    project.dvc("exp", "apply", "fewer")
    return project, said


def test_a_queued_experiment_runs_the_changed_row_from_committed_files(fewer: tuple[Project, str]) -> None:
    project, said = fewer
    assert ran(said) == ROW
    assert project.metrics("zeroshot")["landmarks"] == 8


def test_one_more_round_runs_what_is_new(project: Project) -> None:
    project.uld("rounds", "duld", "2")
    assert params.load(project.root / "params.yaml")["rounds"]["duld-2"] == {
        "reads": "features/trained",
        "start": "duld-1",
        "method": "duld",
    }
    rounds = {f"{stage}@{name}" for name in ("duld-2", "pose_proxy-1") for stage in ("cluster", "train")}
    assert project.changed() == rounds | {"code", "discover@duld", "predict@duld", "report"}
    before = project.files("artifacts")
    project.stages("cluster@duld-2", "train@duld-2")
    after = project.files("artifacts")
    assert {name for name in after if after[name] != before.get(name)} == {
        *(f"labels/duld-2/{name}" for name in ("labels.h5", "landmarks.h5")),
        *(f"rounds/duld-2/{name}" for name in ("model.json", "model.safetensors", "labels.h5", "training.csv")),
    }
    assert "label_change" in params.load(project.root / "metrics/rounds/duld-2.json")


def test_a_study_of_k_reuses_all_up_to_the_pose_proxy(project: Project) -> None:
    project.set(**{"methods.duld_pp.cluster.poses.landmarks": 7})
    rounds, row = ["cluster@duld_pp-1", "train@duld_pp-1"], ["discover@duld_pp", "predict@duld_pp"]
    assert project.changed() == {rounds[0], *row, "report"}
    project.stages(*rounds, *row, "regress@duld_pp", "evaluate@duld_pp")
    assert project.metrics("duld_pp")["landmarks"] == 7 and project.metrics("duld")["landmarks"] == 10


def test_metrics_diff(fewer: tuple[Project, str]) -> None:
    changes = json.loads(fewer[0].dvc("metrics", "diff", "--json"))
    assert changes["metrics/zeroshot.json"]["landmarks"] == {"old": 10, "new": 8, "diff": -2}
    assert "canonical.points.dense.all.forward_nme" in changes["metrics/zeroshot.json"]
    assert "metrics/mean_shape.json" not in changes


def test_plots_diff(fewer: tuple[Project, str]) -> None:
    said = fewer[0].dvc("plots", "diff", "HEAD", "--targets", "plots/zeroshot/ced.csv", "--json")
    (drawn,) = json.loads(said)["data"].values()
    assert {line["rev"] for line in drawn[0]["content"]["data"]["values"]} == {"HEAD", "workspace"}


def test_going_back_is_restored_from_the_cache(fewer: tuple[Project, str], finished: Project) -> None:
    project, _ = fewer
    assert project.metrics("zeroshot")["landmarks"] == 8
    project.run("git", "checkout", "--quiet", "HEAD", "--", "params.yaml")
    said = project.dvc("repro")
    assert ran(said) == []
    assert restored(said) == ROW
    for name in ("dvc.lock", "metrics/zeroshot.json", "artifacts/predictions/zeroshot.h5", "report/index.html"):
        assert (project.root / name).read_bytes() == (finished.root / name).read_bytes(), name
