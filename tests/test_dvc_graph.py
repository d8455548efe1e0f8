"""dvc.yaml, params.yaml and the code agree: each stage depends on the code it runs, every key is read."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import graph
from uld.base import code, params
from uld.base.code import ROUNDS, ROWS, STARTS
from uld.base.errors import ParamsError

GRAPH = graph.load("dvc.yaml")
STAGES = GRAPH["stages"]
PROJECTS = [graph.ROOT, *sorted(path.parent for path in graph.ROOT.glob("studies/*/params.yaml"))]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_depends_on_its_code(stage: str) -> None:
    body, many = graph.declared(stage), "foreach" in STAGES[stage]
    own = [dep for dep in body["deps"] if dep.startswith(("uld", "stages", "artifacts/code"))]
    assert own == [f"artifacts/code/{stage}{'/${key}' if many else ''}.txt"]
    assert body["cmd"] == f"python -m uld.stage {stage}{' ${key}' if many else ''}"


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_lists_of_code_name_the_method_and_model_of_their_line_and_no_others(project: Path) -> None:
    tree = params.load(project / "params.yaml")
    lists = code.lists(graph.ROOT, GRAPH, tree)
    for table, stages in (("rounds", ("cluster", "train")), ("rows", ("discover", "predict"))):
        for name, line in tree[table].items():
            for text in (lists[f"{stage}/{name}.txt"] for stage in stages):
                opened = set(re.findall(r"uld/methods/(\w+)\.py", text)) - {"__init__", "base", "lines"}
                assert opened == {line["method"].split("-")[0].removesuffix("_full_vae")}, name
    assert not [name for name in lists if name.startswith("features/") and "uld/methods/" in lists[name]]


@pytest.mark.parametrize("name", ["a; touch owned", "$(touch owned)", "../../a", "-m", "a b", "a\n", "a.b", ""])
@pytest.mark.parametrize("table", sorted(body["foreach"].strip("${}") for body in STAGES.values() if "foreach" in body))
def test_a_name_that_a_shell_or_a_path_would_take_for_more_is_refused(table: str, name: str, tmp_path: Path) -> None:
    tree = params.load(graph.ROOT / "params.yaml")
    tree[table][name] = None
    (tmp_path / "params.yaml").write_text(json.dumps(tree))
    with pytest.raises(ParamsError, match=rf"params.yaml: {table}: a line is called .*: take a name of letters"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_every_line_has_the_words_that_dvc_yaml_asks_for(project: Path) -> None:
    tree = params.load(project / "params.yaml")
    for stage, body in STAGES.items():
        if "foreach" in body:
            table = body["foreach"].strip("${}")
            words = set(re.findall(r"\$\{item\.(\w+)\}", str(body["do"])))
            assert [name for name, line in tree[table].items() if not words <= set(line)] == [], stage


def test_stages_dvc_yaml_and_scripts_have_the_same_names() -> None:
    scripts = {path.stem for path in (graph.ROOT / "stages").glob("*.py")}
    assert scripts == set(STAGES)


def keys_read(stage: str) -> set[str]:
    """The keys that a stage script passes to `params.read`; {..} of an f-string as *."""
    found = set()
    for node in ast.walk(ast.parse((graph.ROOT / f"stages/{stage}.py").read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "params.read":
            for arg in node.args[1:2]:
                parts = arg.values if isinstance(arg, ast.JoinedStr) else [arg]
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in parts)
                if re.fullmatch(r"[a-z_.*]+", text):
                    found.add(text)
    return found


def test_the_lists_of_code_are_made_again_when_what_chooses_code_changes() -> None:
    """`code` reads params.yaml as a whole; the tables of a `foreach` name the lists, the others are of `opens`."""
    tables = {body["foreach"].strip("${}") for body in STAGES.values() if "foreach" in body}
    words = {"code", "dataset", "roi.providers", "backbone", "backbones.${backbone}.kind"}
    assert {STARTS, ROUNDS, ROWS} <= tables
    assert set(graph.declared("code")["params"]) == tables | words


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_reads_exactly_the_params_it_declares(stage: str) -> None:
    declared = {re.sub(r"\$\{[^}]*\}", "*", key) for key in graph.declared(stage).get("params", [])}
    read = keys_read(stage)
    covered = {key for key in read if any(key == d or key.startswith(f"{d}.") for d in declared)}
    assert read - covered == set(), "read but not declared"
    used = {d for d in declared if any(key == d or key.startswith(f"{d}.") for key in read)}
    assert declared - used == set(), "declared but not read"


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_every_key_of_params_is_declared_by_a_stage(project: Path) -> None:
    declared = {key for stage in STAGES for key in graph.declared(stage).get("params", [])}
    patterns = [re.compile(re.sub(r"\\\$\\\{[^}]*\\\}", "[^.]+", re.escape(key)) + r"(\..*)?") for key in declared]
    tree = params.load(project / "params.yaml")
    assert [key for key in leaves(tree) if not any(p.fullmatch(key) for p in patterns)] == []


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}{key}.")]
    return [prefix + "_" if tree == {} else prefix.rstrip(".")]  # an empty table stands for any line of it


def test_every_field_of_a_params_class_is_used() -> None:
    """A key that is parsed and then ignored would be a lie in params.yaml."""
    sources = {p: ast.parse(p.read_text()) for p in Path(graph.ROOT / "uld").rglob("*.py")}
    used = {n.attr for tree in sources.values() for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    fields = {
        (node.name, item.target.id)
        for tree in sources.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Params")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    scripts = [ast.parse(p.read_text()) for p in (graph.ROOT / "stages").glob("*.py")]
    used |= {n.attr for tree in scripts for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert {(c, f) for c, f in fields if f not in used and f != "kind"} == set()
