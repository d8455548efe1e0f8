"""Experiments: one changed key runs what hangs on it and nothing else, and going back costs nothing."""

import json
import re
import sys

import pytest

from smoke.project import Project, ran, restored
from uld.base import params

ROW = [*(f"{stage}@zeroshot" for stage in ("discover", "predict", "regress", "evaluate")), "report"]


def test_an_experiment_runs_what_hangs_on_the_changed_key(project: Project) -> None:
    assert ran(project.dvc("exp", "run", "--set-param", "report.worst=1")) == ["report"]


@pytest.fixture(scope="module")
def fewer(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A copy that applied a queued experiment with 8 landmarks, and what DVC said when it ran."""
    project = finished.copy(tmp_path_factory.mktemp("experiment") / "project")
    project.dvc("exp", "run", "--queue", "--name", "fewer", "--set-param", "variants.zeroshot.landmarks=8")
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
    project.run(sys.executable, "-m", "uld", "rounds", "duld", "2")
    assert params.load(project.root / "params.yaml")["rounds"]["duld-2"] == {
        "features": "trained",
        "start": "duld-1",
        "step": "duld",
    }
    before = project.files("artifacts")
    rounds = [f"{stage}@{name}" for name in ("duld-2", "pose_proxy-1", "duld_pp-1") for stage in ("cluster", "train")]
    rows = [f"{stage}@{row}" for stage in ("discover", "predict", "regress", "evaluate") for row in ("duld", "duld_pp")]
    assert ran(project.dvc("repro")) == [*rounds, "poses", *rows, "report"]
    after = project.files("artifacts")
    followed = re.compile(r"\w+/(pose_proxy-1|duld|duld_pp(-1)?)(\.h5|/.*)")
    assert {name for name in before if after.get(name) != before[name]} <= set(filter(followed.fullmatch, before))
    assert {name for name in after if name not in before} == {
        *(f"labels/duld-2/{name}" for name in ("labels.h5", "landmarks.h5")),
        *(f"rounds/duld-2/{name}" for name in ("head.json", "head.safetensors", "labels.h5", "training.csv")),
    }
    assert "label_change" in params.load(project.root / "metrics/rounds/duld-2.json")


def test_a_study_of_k_reuses_all_up_to_the_pose_proxy(project: Project) -> None:
    said = project.dvc("exp", "run", "--set-param", "steps.duld_pp.cluster.landmarks=7")
    row = [f"{stage}@duld_pp" for stage in ("discover", "predict", "regress", "evaluate")]
    assert ran(said) == ["cluster@duld_pp-1", "train@duld_pp-1", "poses", *row, "report"]
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
