import json

import pandas as pd
import pytest

from uld.base.errors import ArtifactError
from uld.commands import experiments, kept, table
from uld.commands.experiments import Run


def tree(forward: float, landmarks: int = 10) -> dict:
    dense = {"all": {"forward_nme": forward, "forward_low": 0.0}, "yaw": {"frontal": {"forward_nme": forward + 1}}}
    return {
        "landmarks": landmarks,
        "stability": 1.25,
        "clusters": {"landmark_silhouette": 0.1, "inertia": 5.0},
        "canonical": {"rule": {"ridge": 0.001}, "p68": {"dense": dense, "images": {"test": 3}}},
    }


def of(seed: int, forward: float, code: str = "abc1234", **settings: str) -> Run:
    return Run(code, {"seed": str(seed), "same": "1", **settings}, {"a": tree(forward), "b": tree(3.0)})


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("rows: {b: {}, a: {}}\nevaluate: {protocols: [canonical]}\n")
    (tmp_path / "dvc.yaml").touch()
    return tmp_path / "seeds.csv"


def test_a_line_a_row_and_seed_with_the_figures_of_interest(path) -> None:
    assert kept.write(path, [of(0, 10.0), of(1, 13.0)]) == 4
    lines = pd.read_csv(path)
    assert list(lines) == [
        *("row", "seed", "code", "landmarks", "stability", "clusters.landmark_silhouette"),
        *("canonical.p68.dense.all.forward_nme", "canonical.p68.dense.yaw.frontal.forward_nme"),
    ]
    assert lines[["row", "seed"]].to_numpy().tolist() == [[row, seed] for row in ("a", "b") for seed in (0, 1)]


def test_mean_and_deviation_are_read_from_it(path, uld) -> None:
    kept.write(path, [of(seed, forward) for seed, forward in enumerate((10.0, 13.0, 16.0))])
    table_of_today = pd.read_csv(path)
    of_a_round = pd.DataFrame([{"row": "a-1", "seed": 0, "code": "first version", "poses.accuracy": 0.5}])
    pd.concat([table_of_today, of_a_round]).to_csv(path, index=False)
    results = experiments.results(table.Choice(), kept.read(path))
    lines = results.lines.set_index("row")
    assert lines.loc["a", ["seeds", "forward_nme", "forward_nme_sd", "landmarks"]].tolist() == [3, 13, 3, 10]
    assert "a-1" not in lines.index
    shown = uld("table", "--kept", "seeds.csv", "--format", "md").output.splitlines()
    assert [line.split(" | ")[0] for line in shown[2:]] == ["| b", "| a"]
    assert "13.0 ± 3.0" in shown[3]
    assert experiments.results(table.Choice("canonical", every=True), kept.read(path)).figures


def test_a_run_replaces_the_one_with_its_seed_and_params(path) -> None:
    kept.write(path, [of(0, 10.0, "first version"), of(1, 13.0, "first version")])
    assert kept.write(path, [of(1, 14.0), of(2, 15.0)]) == 6
    lines = pd.read_csv(path).query("row == 'a'")
    assert lines["canonical.p68.dense.all.forward_nme"].tolist() == [10, 14, 15]
    assert lines["code"].tolist() == ["first version", "abc1234", "abc1234"]
    results = experiments.results(table.Choice(), kept.read(path))  # figures of two codes have no mean
    assert results.labels == ["code", "row", "seeds"]
    assert results.lines.query("row == 'a'")["seeds"].tolist() == [1, 2]


def test_params_that_differ_are_columns(path) -> None:
    kept.write(path, [of(0, 10.0, place="10"), of(0, 12.0, place="null")])
    assert pd.read_csv(path, keep_default_na=False)["params.place"].unique().tolist() == ["10", "null"]
    results = experiments.results(table.Choice(rows=["a"]), kept.read(path))
    assert results.lines[["place", "forward_nme"]].to_numpy().tolist() == [["10", 10.0], ["null", 12.0]]


def test_what_is_no_table_of_runs_is_refused(path, uld) -> None:
    with pytest.raises(ArtifactError, match="--experiments --write"):
        kept.read(path)
    path.write_text("row,seed\na,0\n")
    with pytest.raises(ArtifactError, match="no column code"):
        kept.read(path)
    path.write_text("row,seed,code,landmarks\na,0,x,ten\n")
    with pytest.raises(ArtifactError, match="no number"):
        kept.read(path)
    for words in (("--experiments", "--kept", path), ("--write", path), ("--all", "--format", "csv")):
        done = uld("table", *words)
        assert done.exit_code == 2 and "error: --" in done.output


def test_write_keeps_what_dvc_has(path, uld, monkeypatch) -> None:
    data = {"params": {"params.yaml": {"data": {"seed": 4}}}, "metrics": {"metrics/a.json": {"data": tree(10.0)}}}
    monkeypatch.setattr(experiments, "shown", lambda: [{"rev": "0123456789", "data": data, "experiments": None}])
    done = uld("table", "--experiments", "--write", "seeds.csv")
    assert done.exit_code == 0 and "seeds.csv: 1 lines" in done.output
    assert pd.read_csv(path, dtype=str)[["row", "seed", "code"]].to_numpy().tolist() == [["a", "4", "0123456"]]


def test_data_named_by_their_full_path_are_the_same_data(path, monkeypatch) -> None:
    def revision(source: str, seed: int) -> dict:
        metrics = {"studies/x/metrics/a.json": {"data": tree(10.0)}, "metrics/a.json": {"data": tree(99.0)}}
        return {"params": {"studies/x/params.yaml": {"data": {"seed": seed, "source": source}}}, "metrics": metrics}

    study = path.parent / "studies/x"
    study.mkdir(parents=True)
    (path.parent / ".dvc").mkdir()
    monkeypatch.chdir(study)
    commit = {"rev": "0", "data": revision("../../data/raw", 0)}
    own = {"revs": [{"data": revision(str(path.parent / "data/raw"), 1)}]}
    monkeypatch.setattr(experiments, "shown", lambda: json.loads(json.dumps([{**commit, "experiments": [own]}])))
    runs = experiments.kept_by_dvc()
    assert [run.settings["source"] for run in runs] == ["../../data/raw"] * 2
    assert [run.rows["a"]["canonical"]["p68"]["dense"]["all"]["forward_nme"] for run in runs] == [10, 10]
