"""The smoke run: once in a run of the tests, lent to all tests of the pipeline."""

import shutil
from pathlib import Path

import pytest

from smoke.project import Project
from smoke.shared import once
from tests.training.adam import ADAM
from uld.base import params

# further lines of the tables
DETECT = {"radius": 1, "threshold": 0.05, "min_points": 6, "max_points": 12, "heat_weight": 0}
CLUSTERS = {
    "pool": "detections", "points": 20, "max_points": 800_000, "restarts": 3, "iterations": 20,
    "over_clustering": 1, "recentre": 0, "images": 100, "detect": DETECT,
}  # fmt: skip
MORE = {
    "aggregated": {"resting": {"reads": "features/trained", "start": "silk"}},
    "rounds": {
        "resting-1": {"reads": "features/resting", "start": "resting", "method": "duld"},
        "mallis_d-1": {"reads": "features/trained", "start": "silk", "method": "mallis_d"},
        "mallis_d_detector-1": {"reads": "features/trained", "start": "mallis_d-1", "method": "mallis_d_detector"},
    },
    "rows": {
        "resting": {"reads": "features/resting", "start": "resting-1", "method": "duld"},
        "mallis_d": {"reads": "features/trained", "start": "mallis_d_detector-1", "method": "mallis_d_detector"},
    },
    "methods": {
        "mallis_d": {
            "cluster": {"clusters": 14} | CLUSTERS,
            "train": {
                "steps": 6, "pairs": 4, "lr": 1e-3, "descriptor_lr": 1e-5, "optimiser": ADAM,
                "other_image": 0.5, "sigma": 1,
                "margin": 0.8, "negatives": 8, "min_distance": 2.85, "descriptor_weight": 10,
            },
        },
        "mallis_d_detector": {
            "cluster": CLUSTERS | {
                "label": {"max_distance": None, "dense": None}, "mirror": "majority", "average": True, "threshold": 0,
            },
            "train": {"steps": 6, "views": 4, "lr": 1e-2, "lr_rest": 1e-3, "optimiser": ADAM, "loss": "mse",
            "sigma": 0.75},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tree as `dvc repro` leaves it, committed. Read only: what runs a command of DVC takes a copy.

    Stages run in this process, and DVC is told so; test_wheel.py runs a whole project with `dvc repro`.
    """

    def make(root: Path) -> None:
        project = Project.export(root)
        project.stages(*project.order())
        shutil.rmtree(root / ".scratch")
        project.dvc("commit", "--force")
        project.run("git", "add", ".")
        project.run("git", "commit", "--quiet", "--message", "smoke run")

    return Project(once(tmp_path_factory, "smoke", make))


@pytest.fixture(scope="session")
def extended(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished tree and more: a round on an aggregator that rests, and Mallis (D). Read only."""

    def make(root: Path) -> None:
        project = finished.copy(root)
        tables, before = params.load(root / "params.yaml"), project.order()
        project.set(**{name: tables[name] | lines for name, lines in MORE.items()})
        project.stages(*(stage for stage in project.order() if stage not in before))

    return Project(once(tmp_path_factory, "extended", make))


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished tree that a test may spoil."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """The tree before anything has run."""
    return Project.export(tmp_path / "project")
