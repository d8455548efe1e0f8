"""The recipe of docs/scale.md for a rented machine: its commands, with a folder as the remote."""

import json
from pathlib import Path

import pytest

from smoke.project import Project, ran
from uld.base import params

ROW = "evaluate@zeroshot"
STORE = "artifacts/features/trained.zarr"


def hashes(project: Project) -> set[str]:
    """Hashes of the feature stores and of their files."""
    stages = params.load(project.root / "dvc.lock")["stages"]
    outs = [stages[name]["outs"][0] for name in ("features@trained", "aggregate@silk")]
    assert outs[0]["path"] == STORE
    listed = [project.root / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:] for out in outs]
    files = {file["md5"] for one in listed for file in json.loads(one.read_text())}
    return files | {out["md5"] for out in outs}


def found(project: Project) -> dict[str, bytes]:
    """What a run leaves, in Git and in the cache, but for the feature stores."""
    folders = ("artifacts", "metrics", "plots", "report")
    files = {f"{top}/{name}": data for top in folders for name, data in project.files(top).items()}
    return {name: data for name, data in files.items() if not name.startswith("artifacts/features")}


@pytest.fixture
def home(project: Project, tmp_path: Path) -> Project:
    """The finished tree with a bare Git remote and an empty storage; photographs, as most, are not in Git."""
    with (project.root / ".gitignore").open("a") as file:
        file.write("/photos/\n")
    project.run("git", "rm", "--quiet", "-r", "--cached", "photos")
    project.run("git", "init", "--quiet", "--bare", str(tmp_path / "hub.git"))
    project.run("git", "remote", "add", "origin", str(tmp_path / "hub.git"))
    return project


def test_experiments_on_a_rented_machine(home: Project, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    home.dvc("remote", "add", "--default", "storage", str(storage))
    home.run("git", "commit", "--quiet", "--all", "--message", "remote")
    home.dvc("push", "-r", "storage")
    home.run("git", "push", "--quiet", "origin", "HEAD")
    assert not (home.root / ".dvc/remotes").exists()

    home.run("git", "clone", "--quiet", str(tmp_path / "hub.git"), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    there.run("git", "config", "user.name", "smoke")
    there.run("git", "config", "user.email", "smoke@example.org")
    there.dvc("pull", "-r", "storage", "--allow-missing")
    results = {"committed": found(there)}
    assert results["committed"] == found(home)

    said = there.dvc("exp", "run", "--allow-missing", "--name", "strict", "-S", "evaluate.pck=[0.1]", ROW)
    assert ran(said) == [ROW]
    results["strict"] = found(there)
    assert not (there.root / STORE).exists() and not (there.root / "photos").exists()

    there.run("git", "restore", ".")
    assert ran(there.dvc("repro", "--single-item", "features")) == ["features@trained"]
    said = there.dvc("exp", "run", "--allow-missing", "--name", "single", "-S", "steps.zeroshot.restarts=1")
    assert ran(said) == [*(f"{stage}@zeroshot" for stage in ("discover", "predict", "regress", "evaluate")), "report"]
    results["single"] = found(there)
    there.dvc("exp", "push", "-r", "storage", "origin")
    held = {"".join(path.parts[-2:]) for path in (storage / "files/md5").glob("??/*")}
    assert held and not held & hashes(home)

    home.dvc("exp", "pull", "-r", "storage", "origin")
    for name, thresholds in {"strict": {"at10"}, "single": {"at05", "at10", "at20"}}.items():
        home.dvc("exp", "apply", name)
        assert found(home) == results[name] != results["committed"]
        assert set(home.metrics("zeroshot")["canonical"]["points"]["dense"]["all"]["pck"]) == thresholds
