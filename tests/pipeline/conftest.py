"""The smoke run: once through DVC, lent to all tests of the pipeline."""

from pathlib import Path

import pytest

from smoke.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tree after `dvc repro`, committed. Read only."""
    project = Project.export(tmp_path_factory.mktemp("smoke") / "project")
    project.dvc("repro")
    project.run("git", "add", ".")
    project.run("git", "commit", "--quiet", "--message", "smoke run")
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished tree that a test may spoil."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """The tree before anything has run."""
    return Project.export(tmp_path / "project")
