"""dvc.yaml, params.yaml and the code agree: every import is a dependency, every key is read."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import graph
from uld.base.code import ROUNDS, ROWS, STARTS

STAGES = graph.load("dvc.yaml")["stages"]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_depends_on_its_list_of_code(stage: str) -> None:
    body = graph.declared(stage)
    own = {dep for dep in body["deps"] if dep.startswith(("uld", "stages", "artifacts/code"))}
    key = "/${key}" if "foreach" in STAGES[stage] else ""
    assert own == {f"artifacts/code/{stage}{key}.txt"}
    assert body["cmd"] == f"python -m uld.stage {stage}{key.replace('/', ' ')}"


def test_stages_dvc_yaml_and_scripts_have_the_same_names() -> None:
    scripts = {path.stem for path in (graph.ROOT / "stages").glob("*.py")}
    assert scripts == set(STAGES)


def keys_read(stage: str) -> set[str]:
    """First two levels of the keys that a stage script passes to `params.read`; {..} of an f-string as *."""
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


def test_every_key_of_params_is_declared_by_a_stage() -> None:
    declared = {key for stage in STAGES for key in graph.declared(stage).get("params", [])}
    patterns = [re.compile(re.sub(r"\\\$\\\{[^}]*\\\}", "[^.]+", re.escape(key)) + r"(\..*)?") for key in declared]
    unread = [key for key in leaves(graph.load("params.yaml")) if not any(p.fullmatch(key) for p in patterns)]
    assert unread == []


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
    assert {(c, f) for c, f in fields if f not in used and f not in ("kind", "head")} == set()
