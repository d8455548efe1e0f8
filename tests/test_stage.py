"""How a stage finds its code: the clone that the project lies in, else the installed package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import graph
from uld import __version__
from uld.stage import clone

SHOW = """import sys
from uld.base import errors
print(__name__, __spec__.name, sys.argv[1:], errors.__file__, flush=True)
"""
SEVERAL = """import os, sys
from uld.base import ranks, runtime
def main():
    text = f"<{runtime.process()} of {runtime.processes()}: {sys.argv[1]} in {os.path.dirname(__file__)}>"
    os.write(1, text.encode())
ranks.divided(main)
"""


def copy(root: Path, *more: str) -> Path:
    """The package with a stage `show` that says which code runs."""
    for name in ("uld", "stages"):
        shutil.copytree(graph.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in more:
        shutil.copy(graph.ROOT / name, root)
    (root / "stages/show.py").write_text(SHOW)
    (root / "stages/several.py").write_text(SEVERAL)
    return root


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory.mktemp("installed"))


def stage(folder: Path, installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "uld.stage", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def ran(folder: Path, installed: Path) -> Path:
    """The root of the code that a stage in a folder runs."""
    done = stage(folder, installed, "show", "key")
    assert done.returncode == 0, done.stderr
    name, spec, keys, file = done.stdout.split()
    assert (name, spec, keys) == ("__main__", "stages.show", "['key']")
    return Path(file).parents[2]


def test_a_study_and_a_queued_experiment_run_the_clone_that_they_lie_in(tmp_path: Path, installed: Path) -> None:
    outer = copy(tmp_path / "clone", "pyproject.toml")
    inner = copy(outer / ".dvc/tmp/exps/tmp1", "pyproject.toml")
    assert ran(outer, installed) == ran(outer / "studies/lead", installed) == outer
    assert ran(inner, installed) == ran(inner / "studies/lead", installed) == inner
    assert ran(inner / "studies/lead", outer) == inner  # where the outer clone is what is installed


def test_several_processes_run_the_same_code(tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy(tmp_path / "clone", "pyproject.toml")
    monkeypatch.setenv("ULD_NPROC", "2")
    done = stage(root / "studies/lead", installed, "several", "key")
    assert done.returncode == 0, done.stderr
    assert {f"<{n} of 2: key in {root / 'stages'}>" for n in (0, 1)} == set(re.findall("<.*?>", done.stdout))


def test_elsewhere_the_installed_package_runs(tmp_path: Path, installed: Path) -> None:
    assert clone(tmp_path) is None
    assert ran(tmp_path / "mice", installed) == installed


def test_a_folder_uld_that_hides_the_clone_is_told(tmp_path: Path, installed: Path) -> None:
    root = copy(tmp_path / "clone", "pyproject.toml")
    shutil.copytree(root / "uld", root / "studies/x/uld")
    done = stage(root / "studies/x", installed, "show")
    assert done.returncode == 2 and "hides the code of" in done.stderr


def project(folder: Path, code: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(graph.ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text((graph.ROOT / "params.yaml").read_text().replace("code: .", f"code: {code}", 1))
    return folder


def own(folder: Path, version: str) -> Path:
    for name in ("uld", "stages"):
        (folder / ".uld" / name).mkdir(parents=True)
        (folder / ".uld" / name / "version.txt").write_text(f"{version}\n")
    return project(folder, ".uld")


def test_the_lists_of_a_project_without_a_clone_are_of_the_installed_files(tmp_path: Path) -> None:
    package, folder = tmp_path / "site-packages", own(tmp_path / "mice", __version__)
    copy(package)
    for name in ("show", "several"):
        (package / "stages" / f"{name}.py").unlink()
    done = stage(folder, package, "code")
    assert done.returncode == 0, done.stderr
    there = stage(project(tmp_path / "clone", "."), copy(tmp_path / "clone", "pyproject.toml"), "show")
    assert there.returncode == 0
    for name in ("show", "several"):
        (tmp_path / "clone/stages" / f"{name}.py").unlink()
    assert stage(tmp_path / "clone", package, "code").returncode == 0
    kept = [
        {p.relative_to(top): p.read_text() for p in top.rglob("*.txt")}
        for top in (folder / "artifacts/code", tmp_path / "clone/artifacts/code")
    ]
    assert kept[0] == kept[1] and len(kept[0]) > 30
    assert not any(str(tmp_path) in text for text in kept[0].values())


@pytest.mark.parametrize("words", [("show",), ("code",)])
def test_another_version_is_told_with_the_remedy(tmp_path: Path, installed: Path, words: tuple[str, ...]) -> None:
    done = stage(own(tmp_path / "mice", "0.0.1"), installed, *words)
    assert done.returncode == 2
    assert done.stderr == f"error: this project is of uld 0.0.1, and uld {__version__} runs: `uld new . --update`.\n"


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [("clone/studies/x", ".", "must be '../..', not '.'"), ("mice", ".uld", "no folder '.uld/uld'")],
)
def test_a_wrong_folder_of_code_is_told(tmp_path: Path, installed: Path, place: str, code: str, words: str) -> None:
    copy(tmp_path / "clone", "pyproject.toml")
    done = stage(project(tmp_path / place, code), installed, "code")
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and words in done.stderr


@pytest.mark.parametrize("words", [(), ("trian",), ("../uld/stage",)])
def test_a_stage_that_there_is_not(tmp_path: Path, installed: Path, words: tuple[str, ...]) -> None:
    done = stage(tmp_path, installed, *words)
    assert done.returncode == 2 and "there is no stage" in done.stderr and "train" in done.stderr
