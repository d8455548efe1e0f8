"""A study is a project in a folder of its own, and shares with the root what both compute."""

import json

import pytest

from smoke.project import Project, ran, restored
from uld.base import params

ROW = "zeroshot"


@pytest.fixture(scope="module")
def study(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A study of one row of the smoke run with another number of landmarks, and what DVC said when it first ran."""
    root = finished.copy(tmp_path_factory.mktemp("studies") / "project").root
    one = Project(root / "studies/one")
    one.root.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        (one.root / name).write_bytes((root / name).read_bytes())
    (one.root / ".gitignore").write_text("/artifacts/\n/report/\n")
    rows = params.load(root / "params.yaml")["rows"]
    one.set(code="../..", source="../../photos", rounds={}, aggregated={}, rows={ROW: rows[ROW], "k8": rows[ROW]})
    one.set(**{"rows.k8": rows[ROW] | {"landmarks": 8}, "report.row": ROW, "report.tables": {}})
    return one, dvc(one, "repro", f"evaluate@{ROW}", "evaluate@k8")


def dvc(study: Project, *words: str) -> str:
    """Output of DVC in the study's folder; the code is the root's, whatever is installed."""
    root = study.root.parents[1]
    return study.dvc(*words, PYTHONPATH=str(root), DVC_SITE_CACHE_DIR=str(root / ".dvc/tmp/site"))


def test_what_the_root_has_computed_is_taken_from_the_cache(study: tuple[Project, str], finished: Project) -> None:
    one, said = study
    shared = ["backbone", "features@trained", "bootstrap@frozen"]
    row = [f"{stage}@{ROW}" for stage in ("discover", "predict", "regress", "evaluate")]
    assert set(restored(said)) >= {*shared, *row}
    assert set(ran(said)) - {"code", "data", "roi"} == {
        f"{stage}@k8" for stage in ("discover", "predict", "regress", "evaluate")
    }
    assert (one.root / f"metrics/{ROW}.json").read_bytes() == (finished.root / f"metrics/{ROW}.json").read_bytes()


def test_metrics_and_params_diff_cover_root_and_study(study: tuple[Project, str]) -> None:
    one, _ = study
    root = Project(one.root.parents[1])
    root.set(**{"rows.zeroshot.landmarks": 9})
    (root.root / f"metrics/{ROW}.json").write_text('{"landmarks": 9}')
    metrics = json.loads(root.dvc("metrics", "diff", "--json"))
    assert {f"metrics/{ROW}.json", "studies/one/metrics/k8.json"} <= set(metrics)
    changed = json.loads(root.dvc("params", "diff", "--json"))
    assert {"params.yaml", "studies/one/params.yaml"} <= set(changed)
