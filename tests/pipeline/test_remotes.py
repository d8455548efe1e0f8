"""The recipe of docs/scale.md for a rented machine: its commands, a folder as the remote, and stages that only copy."""

import json
import shutil
from pathlib import Path

import pytest

import graph
from smoke.project import Project, ran
from uld.base import params

# features that are dear to keep, what is made of them, and a score of that
GRAPH = """
stages:
  features:
    cmd: mkdir features && cp photos/number features/kept
    deps: [photos]
    outs: [features: {remote: heavy}]
  discover:
    cmd: cat features/kept params.yaml > landmarks
    deps: [features]
    params: [k]
    outs: [landmarks]
  evaluate:
    cmd: echo "$(grep -v x landmarks; cat params.yaml)" > scores.yaml
    deps: [landmarks]
    params: [pck]
    metrics: [scores.yaml: {cache: false}]
"""


def hashes(project: Project) -> set[str]:
    """Hashes of the features and of their files."""
    out = params.load(project.root / "dvc.lock")["stages"]["features"]["outs"][0]
    listed = project.root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
    return {file["md5"] for file in json.loads(listed.read_text())} | {out["md5"]}


def found(project: Project) -> dict[str, str]:
    """What a run leaves, in Git and in the cache, but for the features."""
    return {name: (project.root / name).read_text() for name in ("landmarks", "scores.yaml", "params.yaml")}


@pytest.fixture
def home(tmp_path: Path) -> Project:
    """A finished run with a bare Git remote and an empty storage; photographs, as most, are not in Git."""
    project = Project(tmp_path / "home")
    (project.root / ".dvc").mkdir(parents=True)
    (project.root / "photos").mkdir()
    shutil.copy(graph.ROOT / ".dvc/config", project.root / ".dvc")
    texts = {"dvc.yaml": GRAPH, "params.yaml": "k: 3\npck: 1\n", "photos/number": "x 7\n", ".gitignore": "/photos/\n"}
    for name, text in texts.items():
        (project.root / name).write_text(text)
    project.run("git", "init", "--quiet")
    identify(project)
    project.dvc("repro")
    project.run("git", "add", ".")
    project.run("git", "commit", "--quiet", "--message", "first")
    project.run("git", "init", "--quiet", "--bare", str(tmp_path / "hub.git"))
    project.run("git", "remote", "add", "origin", str(tmp_path / "hub.git"))
    return project


def identify(project: Project) -> None:
    project.run("git", "config", "user.name", "smoke")
    project.run("git", "config", "user.email", "smoke@example.org")


def test_feature_stores_alone_have_a_remote_of_their_own() -> None:
    heavy = {"artifacts/features/${key}.zarr": {"remote": "heavy"}}
    outs = {stage: graph.declared(stage).get("outs", []) for stage in graph.load("dvc.yaml")["stages"]}
    assert {stage for stage, listed in outs.items() if heavy in listed} == {"features", "aggregate"}
    assert all(isinstance(out, str) for listed in outs.values() for out in listed if out != heavy)


def test_experiments_on_a_rented_machine(home: Project, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    home.dvc("remote", "add", "--default", "storage", str(storage))
    home.run("git", "commit", "--quiet", "--all", "--message", "remote")
    home.dvc("push", "-r", "storage")
    home.run("git", "push", "--quiet", "origin", "HEAD")
    assert not (home.root / ".dvc/remotes").exists()

    home.run("git", "clone", "--quiet", str(tmp_path / "hub.git"), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    identify(there)
    there.dvc("pull", "-r", "storage", "--allow-missing")
    results = {"committed": found(there)}
    assert results["committed"] == found(home)

    said = there.dvc("exp", "run", "--allow-missing", "--name", "strict", "-S", "pck=2", "evaluate")
    assert ran(said) == ["evaluate"]
    results["strict"] = found(there)
    assert not (there.root / "features").exists() and not (there.root / "photos").exists()

    there.run("git", "restore", ".")
    shutil.copytree(home.root / "photos", there.root / "photos")
    assert ran(there.dvc("repro", "--single-item", "features")) == ["features"]
    shutil.rmtree(there.root / "photos")
    said = there.dvc("exp", "run", "--allow-missing", "--name", "single", "-S", "k=5")
    assert ran(said) == ["discover", "evaluate"]
    results["single"] = found(there)
    there.dvc("exp", "push", "-r", "storage", "origin")
    held = {"".join(path.parts[-2:]) for path in (storage / "files/md5").glob("??/*")}
    assert held and not held & hashes(home)

    home.dvc("exp", "pull", "-r", "storage", "origin")
    for name in ("strict", "single"):
        home.dvc("exp", "apply", name)
        assert found(home) == results[name] != results["committed"]
