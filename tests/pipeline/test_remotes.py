"""The recipe of docs/scale.md for a rented machine: data and models travel by a remote, feature stores do not."""

from pathlib import Path

from smoke.project import Project, ran


def test_an_experiment_on_another_machine(project: Project, tmp_path: Path) -> None:
    hub, storage = tmp_path / "hub.git", tmp_path / "storage"
    project.run("git", "init", "--quiet", "--bare", str(hub))
    project.run("git", "remote", "add", "origin", str(hub))
    project.dvc("remote", "add", "--default", "storage", str(storage))
    project.run("git", "commit", "--quiet", "--all", "--message", "a remote")
    project.dvc("push", "--remote", "storage")
    project.run("git", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    sent = sum(file.stat().st_size for file in storage.rglob("*") if file.is_file())
    features = sum(file.stat().st_size for file in (project.root / "artifacts/features").rglob("*") if file.is_file())
    assert 0 < sent < features

    project.run("git", "clone", "--quiet", "--branch", "main", str(hub), str(tmp_path / "there"))
    there = Project(tmp_path / "there")
    there.run("git", "config", "user.name", "smoke")
    there.run("git", "config", "user.email", "smoke@example.org")
    there.dvc("pull", "--remote", "storage")
    assert not (there.root / "artifacts/features/trained.zarr").exists()
    said = there.dvc("exp", "run", "--name", "elsewhere", "--set-param", "evaluate.pck=[0.1]", "--allow-missing")
    assert {name.partition("@")[0] for name in ran(said)} == {"evaluate", "report"}
    there.dvc("push", "--remote", "storage")
    there.dvc("exp", "push", "--no-cache", "origin", "elsewhere")

    project.dvc("exp", "pull", "--no-cache", "origin", "elsewhere")
    project.dvc("fetch", "--remote", "storage")
    project.dvc("exp", "apply", "elsewhere")
    assert project.metrics("zeroshot") == there.metrics("zeroshot")
