"""An edit of one file changes the lists of the stages that run it and of no other: DVC re-runs a stage when its list
has changed. The lists are those of this project's params, with data, rows and rounds of every kind."""

import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import graph
from uld.base.code import METHOD, ROUNDS, ROWS, STARTS, instances, lists, opens
from uld.base.errors import ParamsError

GRAPH, PARAMS = graph.load("dvc.yaml"), graph.load("params.yaml")
LEARNING = ("backbone", "bootstrap/*", "aggregate/*", "cluster/*", "train/*", "discover/*", "predict/*")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("uld", "stages"):
        shutil.copytree(graph.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return lists(graph.ROOT, GRAPH, PARAMS)


def edited(tree: Path, name: str, before: dict[str, str]) -> set[str]:
    """The stages whose lists change when a line is added to a file."""
    with (tree / name).open("a") as file:
        file.write("\n")
    return changed(before, lists(tree, GRAPH, PARAMS))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name.removesuffix(".txt") for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def of_method(*names: str) -> Callable[[], set[str]]:
    """The rounds and the rows of some methods."""
    stages = {ROUNDS: ("cluster", "train"), ROWS: ("discover", "predict")}
    return lambda: {
        f"{stage}/{key}"
        for table, each in stages.items()
        for key, block in PARAMS[table].items()
        if block[METHOD] in names
        for stage in each
    }


def matching(*patterns: str) -> Callable[[], set[str]]:
    """The stages of the project whose names fit one of the patterns."""
    return lambda: {
        name.removesuffix(".txt")
        for name in lists(graph.ROOT, GRAPH, PARAMS)
        if any(fnmatch(name.removesuffix(".txt"), pattern) for pattern in patterns)
    }


def of_model(name: str) -> Callable[[], set[str]]:
    """The starts of a model, and the rounds and rows that begin from them."""
    return lambda: {
        f"{stage}/{key}"
        for stage, key in instances(GRAPH, PARAMS)
        if key is not None and ("models", name) in opens(stage, key, PARAMS)
    }


EDITS = {
    "uld/methods/zeroshot.py": of_method("zeroshot"),
    "uld/methods/duld.py": of_method("duld"),
    "uld/training/pose_contrast.py": of_method("duld_pp"),
    "uld/losses/silk.py": matching("bootstrap/*"),
    "uld/keypoints/classical.py": set,  # no start of these params is taught by it
    "uld/roi/dlib.py": matching("roi", "predict/*"),
    "uld/roi/torchvision.py": set,
    "uld/datasets/orl.py": matching("data", "roi"),
    "uld/datasets/folder.py": set,
    "uld/datasets/splits.py": matching("data"),
    "uld/datasets/heads3d/head.py": set,
    "uld/artifacts/annotations.py": matching("data", "roi", "regress/*", "evaluate/*", "report"),
    "uld/evaluate/yaw.py": matching("regress/*", "evaluate/*", "report"),
    "uld/images/decode.py": matching("data", "roi", "predict/*"),
    "uld/models/encoder.py": set,  # nor is a start of this model
    "uld/models/heads.py": of_model("heads"),
    "uld/report/tables.py": matching("report"),
    "uld/report/page.html": matching("report"),
    "uld/report/published.yaml": matching("report"),
    "uld/evaluate/pck.py": matching("evaluate/*", "report"),
    "uld/commands/table.py": set,
    "uld/stage.py": set,
    "uld/cluster/kmeans.py": matching("cluster/*", "train/*", "discover/*", "predict/[!m]*", "predict/mallis_d"),
    "uld/diffusion/training.py": matching("backbone"),
    "stages/train.py": matching("train/*"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_lists_of_those_that_run_the_file(tree: Path, before: dict[str, str], name: str) -> None:
    assert edited(tree, name, before) == EDITS[name]()


def test_what_trains_reaches_no_stage_that_does_not_learn(tree: Path, before: dict[str, str]) -> None:
    found = edited(tree, "uld/training/fit.py", before)
    assert found >= matching("backbone", "bootstrap/silk", "train/*")()
    assert found <= matching(*LEARNING)()


def test_what_draws_views_anew_is_run_where_training_does(before: dict[str, str]) -> None:
    """Where a start asks for it: by its bootstrap and its rounds, but for those behind a frozen trunk."""
    draws = {f"uld/{name}.py" for name in ("sources/drawn_views", "sources/pixel_views", "images/augment")}
    assert not any(name in text for text in before.values() for name in draws)
    silk, first = PARAMS[STARTS]["silk"], PARAMS[ROUNDS]["duld-1"]
    frozen = {"resting": {"reads": "features/trained", "start": "silk"}}
    rounds = PARAMS[ROUNDS] | {"resting-1": first | {"reads": "features/resting", "start": "resting"}}
    starts = PARAMS[STARTS] | {"silk": silk | {"views": {"warp": {}, "light": {}}}}
    after = lists(graph.ROOT, GRAPH, PARAMS | {STARTS: starts, ROUNDS: rounds, "aggregated": frozen})
    wanted = {"bootstrap/silk", *(f"train/{name}" for name in PARAMS[ROUNDS])}
    for name in draws:
        assert {stage.removesuffix(".txt") for stage, text in after.items() if name in text} == wanted
    both = {stage for stage in before if stage not in {f"{name}.txt" for name in wanted}}
    assert all(after[stage] == before[stage] for stage in both)


def test_docs_are_in_no_list(before: dict[str, str]) -> None:
    assert not any("docs/" in text or str(graph.ROOT) in text for text in before.values())


def test_a_new_line_of_a_table_is_a_new_stage_and_nothing_else(tree: Path, before: dict[str, str]) -> None:
    """A method in a file of its own, and a row of it."""
    (tree / "uld/methods/sixth.py").write_text('"""A sixth method."""\n')
    table = tree / "uld/methods/__init__.py"
    text = table.read_text()
    assert edited_table(text) != text
    lines = {**PARAMS[ROWS], "sixth": {**PARAMS[ROWS]["zeroshot"], METHOD: "sixth"}}
    plain = lists(tree, GRAPH, PARAMS | {ROWS: lines | {"sixth": PARAMS[ROWS]["zeroshot"]}})
    assert changed(before, plain) == {f"{stage}/sixth" for stage in ("discover", "predict", "regress", "evaluate")}
    table.write_text(edited_table(text))
    found = lists(tree, GRAPH, PARAMS | {ROWS: lines})
    assert "uld/methods/sixth.py" in found["discover/sixth.txt"]


def edited_table(text: str) -> str:
    return text.replace('    "zeroshot": ', '    "sixth": "uld.methods.sixth:Sixth",\n    "zeroshot": ', 1)


def mistakes() -> Iterator[tuple[str, dict[str, object], dict[str, object], str]]:
    stages = GRAPH["stages"]
    yield "a method", {ROUNDS: {"r": {**PARAMS[ROUNDS]["duld-1"], METHOD: "dull"}}, ROWS: {}}, {}, "has no 'dull'"
    yield "a start", {ROUNDS: {"r": {**PARAMS[ROUNDS]["duld-1"], "start": "silky"}}, ROWS: {}}, {}, "no 'silky' under"
    yield "a table", {STARTS: None}, {}, "no 'silk' under starts"
    yield "a ring", {ROUNDS: {"r": {**PARAMS[ROUNDS]["duld-1"], "start": "r"}}}, {}, "starts from itself"
    yield "a stage", {}, {**stages, "probe": stages["report"]}, "stage 'probe': there is no such script"
    yield "no stage", {}, {name: body for name, body in stages.items() if name != "roi"}, "stage 'roi': dvc.yaml"


@pytest.mark.parametrize(
    ("params", "stages", "words"), [case[1:] for case in mistakes()], ids=[c[0] for c in mistakes()]
)
def test_mistakes_are_told(params: dict[str, object], stages: dict[str, object], words: str) -> None:
    with pytest.raises(ParamsError, match=words):
        lists(graph.ROOT, {"stages": stages or GRAPH["stages"]}, PARAMS | params)


def test_a_stage_that_the_mapping_does_not_know() -> None:
    with pytest.raises(ParamsError, match="what stage 'probe' opens"):
        opens("probe", None, PARAMS)
