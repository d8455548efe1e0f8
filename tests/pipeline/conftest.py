"""The smoke run: once through DVC in a run of the tests, lent to all tests of the pipeline."""

from pathlib import Path

import pytest

from smoke.project import Project
from smoke.shared import once
from uld.base import params

# further rounds and rows, which take the same ways through DVC as the first: their stages run in this process
MORE = {
    "aggregated": {"silk": {"features": "trained"}},
    "rounds": {
        "resting": {"features": "silk", "start": "silk", "step": "duld"},
        "mallis_d-1": {"features": "trained", "start": "silk", "step": "mallis_d"},
        "mallis_d_detector-1": {"features": "trained", "start": "mallis_d-1", "step": "mallis_d_detector"},
    },
    "variants": {
        "resting": {"features": "silk", "start": "resting", "step": "duld"},
        "mallis_d": {"features": "trained", "start": "mallis_d_detector-1", "step": "mallis_d_detector"},
    },
}
STAGES = [
    "aggregate@silk",
    *(f"{stage}@{name}" for name in ("resting", "mallis_d-1", "mallis_d_detector-1") for stage in ("cluster", "train")),
    *(f"{stage}@{row}" for row in ("resting", "mallis_d") for stage in ("discover", "predict")),
]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tree after `dvc repro`, committed. Read only: what runs a command of DVC takes a copy."""

    def make(root: Path) -> None:
        project = Project.export(root)
        project.dvc("repro")
        project.run("git", "add", ".")
        project.run("git", "commit", "--quiet", "--message", "smoke run")

    return Project(once(tmp_path_factory, "smoke", make))


@pytest.fixture(scope="session")
def extended(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished tree and more: a round on an aggregator that rests, and Mallis (D). Read only."""

    def make(root: Path) -> None:
        project = finished.copy(root)
        tables = params.load(root / "params.yaml")
        project.set(**{name: tables[name] | lines for name, lines in MORE.items()})
        project.stages(*STAGES)

    return Project(once(tmp_path_factory, "extended", make))


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished tree that a test may spoil."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """The tree before anything has run."""
    return Project.export(tmp_path / "project")
