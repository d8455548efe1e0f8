import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from uld.base.errors import ArtifactError, ParamsError, ULDError
from uld.commands import experiments, table

PARAMS = "dataset: folder\nsource: photos\nrows: {b: {}, a: {}, c: {}}\nevaluate:\n  protocols: [canonical, other]\n"


def tree(forward: float, **more: float) -> dict:
    errors = {"forward_nme": forward, "forward_low": forward - 1, "forward_high": forward + 2, **more}
    return {
        "landmarks": 10,
        "detection_rate": 0.5,
        "stability": 1.25,
        "clusters": {"landmark_silhouette": 0.1},
        "canonical": {
            "rule": {"ridge": 0.001},
            "p5": {"dense": {"all": {"forward_nme": 99.0}}},
            "p68": {
                "dense": {"all": errors, "n300": {"forward_nme": forward + 5}},
                "detected": {"all": {"forward_nme": 1.0}},
                "filled": {"all": {"forward_nme": 2.0}},
            },
        },
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "metrics").mkdir()
    for row, forward in (("a", 10.0), ("b", 20.0)):
        (tmp_path / "metrics" / f"{row}.json").write_text(json.dumps(tree(forward, backward_nme=3.0)))
    (tmp_path / "metrics/backbone.json").write_text("{}")
    return tmp_path


def csv(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_the_markup_that_is_shown(run, uld) -> None:
    """p68 where there is one, else the mark-up of a file without a name, else the first."""
    for sets, shown in ({"eyes", "p68", "points"}, "p68"), ({"eyes", "points"}, "points"), ({"fur", "tail"}, "fur"):
        one = {"canonical": {name: {"dense": {"all": {"forward_nme": 1.0}}} for name in sorted(sets)}}
        for row in "ab":
            (run / "metrics" / f"{row}.json").write_text(json.dumps(one))
        assert f"mark-up {shown}, protocol canonical" in uld("table").output


def test_rows_stand_in_the_order_of_params_and_missing_ones_have_dashes(run, uld) -> None:
    lines = uld("table", "--format", "md").output.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| b", "| a", "| c"]
    assert "20.0 [19.0, 22.0]" in lines[2]
    assert "| 50.0 | 1.25 | 0.100 |" in lines[2]
    assert lines[4] == "| c | " + " | ".join("-" * 8) + " |"


def test_a_named_table_has_its_rows_in_its_order(run, uld) -> None:
    (run / "params.yaml").write_text(PARAMS + "report: {tables: {short: [a, b]}}\n")
    lines = uld("table", "short", "--format", "md").output.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| a", "| b"]
    assert "there is no table 'long': report.tables in params.yaml has short." in uld("table", "long").output


def test_the_paper_stands_behind(run, uld) -> None:
    (run / "params.yaml").write_text(PARAMS.replace("a: {}", "duld: {}"))
    lines = uld("table", "--format", "md", "--published").output.splitlines()
    assert lines[0].endswith("| silhouette | paper: MAFL | paper: AFLW |")
    assert lines[3].startswith("| duld |") and lines[3].endswith("| 2.82 / 3.21 | 3.42 / 4.89 |")
    assert lines[2].startswith("| b |") and lines[2].endswith("| - | - |")


def test_csv_holds_the_plain_numbers(run, uld) -> None:
    lines = csv(uld("table", "--format", "csv").output).set_index("row")
    assert lines.loc["a", ["forward_nme", "forward_nme_low", "n300_forward_nme", "detection_rate"]].tolist() == [
        10,
        9,
        15,
        0.5,
    ]
    assert lines.loc["c"].isna().all()


def test_set_points_and_every_figure(run, uld) -> None:
    assert "99.0" in uld("table", "--set", "p5").output
    for points, figure in (("detected", 1), ("filled", 2)):
        lines = csv(uld("table", "--points", points, "--format", "csv").output)
        assert lines["forward_nme"].dropna().tolist() == [figure, figure]
    every = csv(uld("table", "--every", "--format", "csv").output)
    assert {"clusters.landmark_silhouette", "all.forward_nme", "n300.forward_nme", "stability"} <= set(every.columns)
    assert not any("rule" in name or "p5" in name for name in every.columns)


def test_text_is_never_cut(run, uld) -> None:
    shown = uld("table").output
    assert "silhouette" in shown
    assert "…" not in shown
    assert "20.0 [19.0, 22.0]" in shown


def test_without_annotations_the_rest_is_shown(run, uld) -> None:
    for row in "ab":
        path = run / "metrics" / f"{row}.json"
        path.write_text(json.dumps({key: value for key, value in tree(1.0).items() if key != "canonical"}))
    shown = uld("table")
    assert shown.exit_code == 0
    assert "NME needs" in shown.output
    assert "1.25" in shown.output


def test_what_is_not_scored_says_why(run, uld) -> None:
    """Text among the figures hurts no table."""
    few = "needs 300 annotated training images, may use 280"
    unscored = {"canonical": {"p5": {"n300": few}}, "other": {"p68": "needs 5 points, this mark-up has 68"}}
    (run / "metrics/a.json").write_text(json.dumps(tree(10.0) | {"unscored": unscored}))
    every = csv(uld("table", "--every", "--format", "csv").output)
    assert "all.forward_nme" in every and not any("unscored" in name for name in every)
    reason = r"no protocol 'other', but canonical: p68 needs 5 points, this mark-up has 68\."
    with pytest.raises(ParamsError, match=reason):
        table.of_run(table.Choice(protocol="other"))
    with pytest.raises(ParamsError, match=f"no mark-up 'p7', but p5, p68: p5.n300 {few}"):
        table.of_run(table.Choice(markup="p7"))


def test_without_annotations_the_title_says_so(run, uld) -> None:
    bare = {key: value for key, value in tree(1.0).items() if key != "canonical"}
    for row in "ab":
        text = json.dumps(bare | {"unscored": {"canonical": "there are no annotations"}})
        (run / "metrics" / f"{row}.json").write_text(text)
    assert "scored by protocol canonical: there are no annotations" in uld("table").output


def test_unknown_names_and_missing_metrics(run, uld) -> None:
    with pytest.raises(ParamsError, match="p5, p68"):
        table.of_run(table.Choice(markup="p7"))
    with pytest.raises(ParamsError, match="but canonical"):
        table.of_run(table.Choice(protocol="other"))
    for path in run.glob("metrics/*"):
        path.unlink()
    (run / "metrics").rmdir()
    with pytest.raises(ArtifactError, match="no metrics of the rows b, a, c"):
        table.of_run(table.Choice())
    done = uld("table")
    assert done.exit_code == 2 and "`dvc repro`" in done.output


# --- experiments ---


def revision(metrics: dict, **params: object) -> dict:
    shown = {f"metrics/{name}.json": node for name, node in metrics.items()}
    return {"rev": "0", "data": {"params": {"params.yaml": {"data": params}}, "metrics": shown}}


def exp_show(*revisions: dict) -> list:
    """The shape of `dvc exp show --json` (DVC 3.67): the workspace, then a commit with its experiments."""
    head, *others = revisions
    workspace = {"rev": "workspace", "experiments": None, **revision({"a": {"data": tree(1000)}}, seed=5)}
    return [workspace | {"rev": "workspace"}, {**head, "experiments": [{"revs": [one]} for one in others]}]


def test_seeds_share_a_line_with_mean_and_deviation(run, monkeypatch) -> None:
    shown = exp_show(
        revision({"a": {"data": tree(10)}, "backbone": {"data": {"loss": 1}}}, seed=0, k={"x": 1}),
        revision({"a": {"data": tree(10)}}, seed=0, k={"x": 1}),  # the experiment that the commit was made from
        revision({"a": {"data": tree(14)}}, seed=1, k={"x": 1}),
        revision({"a": {"data": tree(30)}}, seed=1, k={"x": [2, 3]}),
        revision({"a": {"error": {"type": "x"}}}, seed=2, k={"x": 1}),
        revision({}, seed=3, k={"x": 1}),  # queued
        {"rev": "1", "data": None},  # failed
    )
    monkeypatch.setattr(experiments, "shown", lambda: shown)
    results = experiments.results(table.Choice(), experiments.kept_by_dvc())
    lines = results.lines.set_index("k.x")
    assert results.labels == ["k.x", "row", "seeds"]
    assert lines.loc["1", ["seeds", "forward_nme"]].tolist() == [2, 12]
    assert lines.loc["1", "forward_nme_sd"] == pytest.approx(8**0.5)
    assert lines.loc["[2, 3]", ["seeds", "forward_nme"]].tolist() == [1, 30]
    assert "12.0 ± 2.8" in results.markdown()
    assert len(lines) == 2


def test_a_param_may_be_named_like_a_figure(run, monkeypatch) -> None:
    shown = exp_show(*(revision({"a": {"data": tree(10 * k)}}, seed=0, landmarks=k) for k in (1, 2)))
    monkeypatch.setattr(experiments, "shown", lambda: shown)
    results = experiments.results(table.Choice(), experiments.kept_by_dvc())
    assert results.labels == ["params.landmarks", "row", "seeds"]
    assert results.lines["params.landmarks"].tolist() == ["1", "2"] and set(results.lines["landmarks"]) == {10}


def test_a_running_experiment_has_no_metrics_of_its_own_yet(run, monkeypatch) -> None:
    shown = exp_show(*(revision({"a": {"data": tree(10)}}, seed=seed) for seed in (0, 1, 2)))
    shown[1]["experiments"][0]["executor"] = {"state": "running", "name": "tempdir", "local": None}
    shown[1]["experiments"][1]["executor"] = None
    monkeypatch.setattr(experiments, "shown", lambda: shown)
    assert experiments.results(table.Choice(), experiments.kept_by_dvc()).lines["seeds"].tolist() == [2]


def cell(forward: float, k: int | None, q: int, **more: object) -> dict:
    return revision({"a": {"data": tree(forward, backward_nme=3.0)}}, landmarks=k, methods={"q": q}, **more)


def test_a_grid_of_two_params(run, monkeypatch, uld) -> None:
    cells = [(8, 10, 5, 0), (9, None, 5, 0), (6, 10, 5, 1), (5, 10, 20, 0), (4, 30, 5, 0)]
    shown = exp_show(*(cell(error, k, q, seed=seed) for error, k, q, seed in cells))
    monkeypatch.setattr(experiments, "shown", lambda: shown)
    done = uld("grid", "a", "landmarks", "methods.q")
    assert done.output.splitlines()[1:] == [
        "           10         30",
        "5   7.0 / 3.0  4.0 / 3.0",
        "20  5.0 / 3.0          -",
    ]
    written = pd.read_csv(run / "plots/grid.csv")
    assert written[["x", "y", "forward", "seeds"]].to_numpy().tolist() == [[10, 5, 7, 2], [30, 5, 4, 1], [10, 20, 5, 1]]
    assert written["label"].tolist() == ["7.0 / 3.0", "4.0 / 3.0", "5.0 / 3.0"]


def test_a_grid_needs_its_params_and_no_others(run, monkeypatch, uld) -> None:
    shown = exp_show(cell(8, 10, 5, seed=0, dataset="orl"), cell(6, 30, 5, seed=1, dataset="faces3d"))
    monkeypatch.setattr(experiments, "shown", lambda: shown)
    done = uld("grid", "a", "landmarks", "methods.q")
    assert done.exit_code == 2 and "these differ in landmarks, dataset" in done.output
    assert not (run / "plots").exists()


def test_no_experiments(run, monkeypatch) -> None:
    monkeypatch.setattr(experiments, "shown", lambda: exp_show(revision({}, seed=0)))
    with pytest.raises(ArtifactError, match="dvc exp run"):
        experiments.results(table.Choice(), experiments.kept_by_dvc())


def test_outside_a_project_dvc_is_quoted(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ULDError, match="not inside of a DVC repository"):
        experiments.shown()


def test_a_project_below_another_has_runs_of_its_own(run, uld, monkeypatch) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    study = run / "studies/x"
    shutil.copytree(run, study, ignore=shutil.ignore_patterns("studies"))
    (study / "metrics/a.json").write_text(json.dumps(tree(12.0)))
    for folder in (run, study):
        (folder / "params.yaml").write_text("seed: 0\nx: 1\n" + PARAMS)
        (folder / "dvc.yaml").write_text("metrics: [metrics/a.json]\nparams: [params.yaml]\n")
    author = ["-c", "user.name=n", "-c", "user.email=a@b"]
    for words in (
        ["git", "init", "-q"],
        [*dvc, "init", "-q"],
        ["git", "add", "-A"],
        ["git", *author, "commit", "-qm", "x"],
    ):
        subprocess.run(words, check=True)
    for folder, forward in ((run, 10), (study, 12)):
        monkeypatch.chdir(folder)
        lines = csv(uld("table", "--experiments", "--format", "csv").output)
        assert lines.loc[0, ["row", "seeds", "forward_nme"]].tolist() == ["a", 1, forward]
