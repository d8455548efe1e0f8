"""dvc.yaml, params.yaml and the code agree: every import is a dependency, every key is read."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import graph
from uld import datasets, keypoints, methods, roi

STAGES = graph.load("dvc.yaml")["stages"]
# rooms that a stage opens by a name in params.yaml, and the files each name stands for
LAZY = {
    "uld/datasets/${dataset}.py": [f"uld/datasets/{name}.py" for name in datasets.TABLE],
    "uld/methods/${item.step}.py": [f"uld/methods/{name}.py" for name in methods.STEPS],
}
BY_NAME = {
    "data": ["uld/datasets/${dataset}.py"],
    "roi": ["uld/datasets/${dataset}.py", *(t.split(":")[0].replace(".", "/") + ".py" for t in roi.TABLE.values())],
    "bootstrap": [t.split(":")[0].replace(".", "/") + ".py" for t in keypoints.POINTS.values()],
    "cluster": ["uld/methods/${item.step}.py"],
    "train": ["uld/methods/${item.step}.py"],
    "discover": ["uld/methods/${item.step}.py"],
    "predict": [
        "uld/methods/${item.step}.py",
        *(t.split(":")[0].replace(".", "/") + ".py" for t in roi.TABLE.values()),
    ],
}


def needed(stage: str) -> set[str]:
    """Every file of uld/ that the stage may run; a selected room stands under its template."""
    found = graph.closure(graph.ROOT / f"stages/{stage}.py") | set(BY_NAME.get(stage, []))
    for template, names in LAZY.items():
        if template in found:
            for name in names:
                found |= graph.closure(graph.ROOT / name)
            found -= set(names)
    for name in [n for n in found if "$" not in n]:
        found |= graph.closure(graph.ROOT / name)
    for template, names in LAZY.items():
        if template in found:
            found -= set(names)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_import_of_a_stage_is_a_dependency(stage: str) -> None:
    deps = {d for d in graph.declared(stage)["deps"] if d.startswith("uld/") and d.endswith(".py")}
    assert deps == needed(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_script_stands_in_its_own_deps(stage: str) -> None:
    body = graph.declared(stage)
    assert f"stages/{stage}.py" in body["deps"]
    # -m: the code that runs is that of the tree DVC runs in, also where a queued experiment has a tree of its own
    assert body["cmd"].split(" $")[0] == f"python -m stages.{stage}"


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


@pytest.mark.parametrize("stage", STAGES)
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
