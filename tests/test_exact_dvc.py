"""What DVC would run after an edit: our dvc.yaml, with stages that only write their outputs."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmarks.toy import Toy, short
from uld.base.code import ROUNDS, ROWS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Two methods, a round each, three rows, all run."""
    tables = short()
    rounds = {name: tables[ROUNDS][name] for name in ("duld-1", "pose_proxy-1")}
    rounds["pose_proxy-1"]["start"] = "duld-1"
    rows = {name: tables[ROWS][name] for name in ("zeroshot", "duld", "mean_shape")}
    rows["duld"]["start"] = "duld-1"
    toy = Toy.make(tmp_path_factory.mktemp("toy") / "toy", **tables | {ROUNDS: rounds, ROWS: rows})
    toy.dvc("repro", "--quiet")
    return toy


@pytest.fixture
def toy(finished: Toy, tmp_path: Path) -> Toy:
    return Toy(Path(shutil.copytree(finished.root, tmp_path / "toy", symlinks=True)))


def put(toy: Toy, key: str, value: Any) -> None:
    yaml = YAML(typ="safe")
    tree = block = yaml.load(toy.root / "params.yaml")
    *path, last = key.split(".")
    for name in path:
        block = block[name]
    block[last] = value
    yaml.dump(tree, toy.root / "params.yaml")


def would_run(toy: Toy) -> set[str]:
    """Stages that DVC would run once the lists are made anew. Those after them run if the outputs have changed."""
    toy.dvc("repro", "--quiet", "code")
    return set(re.findall(r"Running stage '(.+)'", toy.dvc("repro", "--dry")))


def test_nothing_is_left_to_do(finished: Toy) -> None:
    assert would_run(finished) == set()


def test_an_edited_file_runs_the_stages_of_its_lists(toy: Toy) -> None:
    with (toy.root / "uld/methods/duld.py").open("a") as file:
        file.write("\n")
    assert would_run(toy) == {f"{s}@duld-1" for s in ("cluster", "train")} | {
        f"{s}@duld" for s in ("discover", "predict")
    }


def test_a_command_runs_nothing(toy: Toy) -> None:
    (toy.root / "uld/commands/table.py").write_text("")
    assert would_run(toy) == set()


@pytest.mark.parametrize(
    ("key", "value", "want"),
    [
        ("report.worst", 3, {"report"}),
        ("evaluate.bootstrap", 7, {f"evaluate@{row}" for row in ("zeroshot", "duld", "mean_shape")} | {"report"}),
        ("roi.crop", 128, {"roi", *(f"predict@{row}" for row in ("zeroshot", "duld", "mean_shape")), "report"}),
        ("starts.silk.train.lr", 5e-4, {"bootstrap@silk", "report"}),
        ("methods.duld.train.lr", 5e-4, {"train@duld-1", "report"}),  # the clustering of the round stays
    ],
)
def test_an_edited_param_runs_those_that_declare_it(toy: Toy, key: str, value: Any, want: set[str]) -> None:
    """`report` shows params.yaml and runs after each edit of it."""
    put(toy, key, value)
    assert would_run(toy) == want


def test_a_new_row_is_a_new_stage(toy: Toy) -> None:
    rows = YAML(typ="safe").load(toy.root / "params.yaml")[ROWS]
    put(toy, ROWS, rows | {"again": rows["zeroshot"]})
    said = re.findall(r"Running stage '(.+)'", toy.dvc("repro"))
    assert set(said) == {
        "code",
        *(f"{stage}@again" for stage in ("discover", "predict", "regress", "evaluate")),
        "report",
    }
