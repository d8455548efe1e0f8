"""A stage that is killed loses at most what it was writing; the next run goes on and ends with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kills import kills
from smoke.project import Project
from uld.diffusion import building

ITEMS = 16 * 4 + 8 * 3 * 2  # training images in the bank's views and mirrored; test images, two warps, and mirrored

# one item a shard; dies without a word after writing the sixth and before noting that it did
FEATURES = """
import os, runpy, signal
from uld.diffusion import building
building.SHARD_BYTES, finish = 1, building._finish
def finishing(scratch, first, chunks):
    if first == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(scratch, first, chunks)
building._finish = finishing
runpy.run_path("stages/features.py", run_name="__main__")
"""


def test_features_go_on_after_kill_9(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, finish = [], building._finish

    def finishing(scratch: Path, first: int, chunks: Any) -> None:
        computed.append(first)
        finish(scratch, first, chunks)

    monkeypatch.setattr(building, "SHARD_BYTES", 1)
    monkeypatch.setattr(building, "_finish", finishing)
    path = project.root / "artifacts/features/trained.zarr"
    path.rename(path.with_name("first.zarr"))
    assert project.attempt(sys.executable, "-c", FEATURES, "trained").returncode == -signal.SIGKILL
    assert not path.exists(), "an unfinished store must not stand under its final name"
    project.stages("features@trained")
    assert computed == list(range(5, ITEMS))
    path.rename(path.with_name("resumed.zarr"))
    computed.clear()
    project.stages("features@trained")
    assert computed == list(range(ITEMS))
    assert project.files("artifacts/features/resumed.zarr") == project.files("artifacts/features/trained.zarr")


def wait_for(process: subprocess.Popen[str], start: str) -> str:
    """Read on until a line begins with `start`."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(start))


def test_backbone_goes_on_after_sigterm_and_ctrl_c(project: Project) -> None:
    project.set(**{"backbones.tiny.max_steps": 60})
    alone = project.start(sys.executable, "stages/backbone.py")
    wait_for(alone, "backbone step 10:")
    alone.terminate()
    _, said = alone.communicate(timeout=60)
    assert alone.returncode == 130
    assert "interrupted: backbone saved at step" in said
    assert "Traceback" not in said

    inside = project.start(sys.executable, "-m", "dvc", "repro", "backbone")
    assert "step 10:" not in wait_for(inside, "backbone step")
    os.killpg(inside.pid, signal.SIGINT)  # as a terminal does
    _, said = inside.communicate(timeout=60)
    assert inside.returncode != 0
    assert "interrupted: backbone saved at step" in said
    assert "Traceback" not in said

    said = project.dvc("repro", "backbone")
    assert "step 10:" not in said
    assert "step 60:" in said
    resumed = project.files("artifacts/backbone")
    shutil.rmtree(project.root / "artifacts/backbone")
    project.stages("backbone")
    assert project.files("artifacts/backbone") == resumed


@pytest.mark.parametrize(("stage", "name", "key"), [("bootstrap", "silk", "starts.silk.train.steps"),
                                                    ("train", "duld-1", "methods.duld.train.steps")])  # fmt: skip
def test_training_on_the_store_goes_on_after_sigterm(project: Project, stage: str, name: str, key: str) -> None:
    project.set(**{key: 120})
    stopped = project.start(sys.executable, f"stages/{stage}.py", name)
    wait_for(stopped, f"{'bootstrap silk' if stage == 'bootstrap' else 'round duld-1'} step 50 ")
    stopped.terminate()
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert "of 120; run again to go on" in said
    assert "Traceback" not in said
    resumed = project.stage(stage, name)
    assert resumed.returncode == 0
    assert " step 50 of 120" not in resumed.stdout
    assert " step 100 of 120" in resumed.stdout
    files = project.files(f"artifacts/rounds/{name}")
    whole = project.stage(stage, name)
    assert " step 50 of 120" in whole.stdout
    assert project.files(f"artifacts/rounds/{name}") == files


def test_quick_stages_killed_at_random_moments(project: Project, request: pytest.FixtureRequest) -> None:
    """`python tests/kills.py` kills all stages, and more often."""
    count = request.config.getoption("--moments") or 10
    lost = [str(one) for one in kills(project, ["data", "roi"], count, seed=0) if one.wrong]
    assert not lost, "\n".join(lost)
