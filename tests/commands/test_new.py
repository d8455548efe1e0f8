import shutil
import subprocess
from pathlib import Path

import pytest

import uld as package
from smoke.generate import photographs
from uld.base import params
from uld.base.errors import ULDError
from uld.commands import blocks, new

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 6 photographs in `photos`."""
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", people=3)
    return tmp_path


@pytest.fixture
def no_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Git nor DVC is asked, which takes seconds."""

    def run(command: list[str], folder: Path) -> None:
        if "dvc" in command:
            (folder / ".dvc").mkdir()

    monkeypatch.setattr(new, "_run", run)
    monkeypatch.setattr(new.shutil, "which", lambda name: name if name == "dvc" else None)


def test_a_project_is_complete(here, uld, no_init) -> None:
    done = uld("new", "mice", "--images", "photos", "--k", 7)
    assert done.exit_code == 0, done.output
    assert "7 landmarks in 6 photographs" in done.output and f"Next: cd {here}/mice && dvc repro" in done.output
    tree = params.load(here / "mice/params.yaml")
    assert (tree["dataset"], tree["source"], tree["landmarks"]) == ("folder", f"{here}/photos", 7)
    assert tree["code"] == ".uld" and blocks.problems(here / "mice/params.yaml") == []
    assert (here / "mice/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    for part in ("uld", "stages"):
        assert (here / f"mice/.uld/{part}/version.txt").read_text().strip() == package.__version__
    assert {path.name for path in (here / "mice/.dvc/plots").iterdir()} == {
        path.name for path in (ROOT / ".dvc/plots").iterdir()
    }
    about = (here / "mice/README.md").read_text()
    assert "# mice" in about and "dvc repro" in about and "minutes" in about and "{" not in about
    assert "/artifacts/" in (here / "mice/.gitignore").read_text()


def test_photographs_may_lie_in_the_project(here, uld, no_init) -> None:
    (here / "mice").mkdir()
    shutil.move(here / "photos", here / "mice/photos/all")
    assert uld("new", "mice", "--images", "mice/photos/all").exit_code == 0
    assert params.load(here / "mice/params.yaml")["source"] == "photos/all"


def test_a_project_in_a_clone_runs_the_code_of_the_clone(here, uld, no_init) -> None:
    for name in ("uld/stage.py", "stages/data.py", "pyproject.toml"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    assert uld("new", "studies/mice", "--images", "photos").exit_code == 0
    assert params.load(here / "studies/mice/params.yaml")["code"] == "../.."
    assert {path.name for path in (here / "studies/mice").iterdir()} == {
        *("dvc.yaml", "params.yaml", "README.md", ".gitignore", ".dvcignore"),
    }


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("mice", "--images", "nowhere"), "nowhere is no folder"),
        (("mice", "--images", "empty"), "holds no image"),
        (("mice", "--images", "photos", "--k", 1), "at least 2 landmarks"),
        (("photos", "--images", "photos"), "is not empty (it holds landmarks.csv, p00, p01 and 2 more)"),
        (("full", "--images", "photos"), "is not empty (it holds a.txt)"),
        (("full/a.txt", "--images", "photos"), "is a file"),
        (("mice",), "--images, for a new project"),
        (("mice", "--images", "photos", "--update"), "either"),
        (("empty", "--update"), "empty is no project"),
    ],
)
def test_wrong_use_is_told_and_nothing_is_written(here, uld, no_init, words: tuple, hint: str) -> None:
    (here / "empty").mkdir()
    (here / "full").mkdir()
    (here / "full/a.txt").touch()
    before = sorted(here.rglob("*"))
    done = uld("new", *words)
    assert done.exit_code == 2 and hint in done.output.replace("\n", "")
    assert sorted(here.rglob("*")) == before


def test_without_dvc(here, uld, no_init, monkeypatch) -> None:
    monkeypatch.setattr(new.shutil, "which", lambda name: None)
    done = uld("new", "mice", "--images", "photos")
    assert done.exit_code == 2 and "`dvc` is not on PATH" in done.output and not (here / "mice").exists()


def test_update_leaves_params(here, uld, no_init) -> None:
    uld("new", "mice", "--images", "photos")
    path = here / "mice/params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 5"))
    (here / "mice/dvc.yaml").write_text("old")
    (here / "mice/.uld/uld/version.txt").write_text("0.0.1")
    done = uld("new", "mice", "--update")
    assert done.exit_code == 0, done.output
    assert params.load(path)["seed"] == 5
    assert (here / "mice/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert (here / "mice/.uld/uld/version.txt").read_text().strip() == package.__version__
    path.write_text(path.read_text().replace("\nlandmarks:", "\nfacemarks:"))
    done = uld("new", "mice", "--update")
    assert done.exit_code == 2 and "facemarks: unknown key" in done.output


@pytest.mark.parametrize("way", ["no git", "own git", "below git"])
def test_dvc_takes_the_folder_for_a_project(here, way: str, monkeypatch) -> None:
    if way == "no git":
        there = shutil.which
        monkeypatch.setattr(new.shutil, "which", lambda name: None if name == "git" else there(name) or name)
    elif way == "below git":
        subprocess.run(["git", "init", "--quiet"], check=True)
    new.create(Path("mice"), Path("photos"), 5)
    assert (here / "mice/.git").exists() == (way == "own git")
    from dvc.repo import Repo

    with Repo(str(here / "mice")) as repo:
        assert Path(repo.root_dir) == here / "mice"
        assert repo.config["core"].get("no_scm", False) == (way == "no git")
        assert repo.config["cache"]["type"] == ["reflink", "hardlink", "symlink"]


def test_what_fails_is_quoted(tmp_path) -> None:
    with pytest.raises(ULDError, match=r"`git nonsense` failed in .*not a git command"):
        new._run(["git", "nonsense"], tmp_path)
