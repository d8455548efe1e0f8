"""`uld new`: a project for a user's own photographs, in a folder of its own.

What it needs lies in the folder `project` beside this file, so that an installed package has it too. dvc.yaml,
params.yaml, the DVC settings and the plot templates there are copies: the root of the repository holds the originals,
because they run there, and `make copies` and a test keep the copies equal. The copy of dvc.yaml is called graph.yaml,
since DVC takes every dvc.yaml of a repository for a pipeline that is to run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import uld
from uld.base.errors import DataError, NotInstalled, ParamsError, ULDError
from uld.commands import edit, presets
from uld.datasets.folder import walk
from uld.stage import OWN, clone

FILES = Path(__file__).parent / "project"
FEWEST = 2  # landmarks; one has no shape


def create(folder: Path, images: Path, landmarks: int) -> list[str]:
    """Write a project that runs on the photographs below `images`.

    A folder that lies in a clone of the repository runs that clone's code and shares its cache, as a study does. Any
    other becomes a DVC project, under Git where that is installed, and runs the installed package.

    Args:
        folder: does not exist yet, or holds nothing but the photographs.
        images: photographs, nested anyhow.
        landmarks: K.

    Returns:
        Lines that say what was made and what comes next.

    Raises:
        DataError: no folder of photographs.
        ParamsError: fewer landmarks than two.
        ULDError: the folder is not empty, or Git or DVC fails.
        NotInstalled: `dvc` is not on PATH.
    """
    images, folder = images.expanduser().resolve(), folder.expanduser()
    count = _count(images)
    if landmarks < FEWEST:
        raise ParamsError(f"--k {landmarks}: a detector needs at least {FEWEST} landmarks.")
    _refuse_occupied(folder, images)
    _refuse_without_dvc()
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    root = clone(folder)
    if root is None:
        _put_under_control(folder)
    source = images.relative_to(folder) if images.is_relative_to(folder) else images
    _write_params(folder, source, landmarks, OWN if root is None else os.path.relpath(root, folder))
    for name, target in {"gitignore": ".gitignore", "dvcignore": ".dvcignore"}.items():
        shutil.copyfile(FILES / name, folder / target)
    about = (FILES / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(about.format(name=folder.name, count=count, source=source), encoding="utf-8")
    _write_versioned(folder, root)
    return [
        f"{folder}: a project that looks for {landmarks} landmarks in {count} photographs.",
        f"Next: cd {folder} && dvc repro",
    ]


def update(folder: Path) -> list[str]:
    """Write dvc.yaml anew, and the versions that say which code runs; params.yaml stays as it is.

    Raises:
        ULDError: the folder holds no project.
        ParamsError: this version cannot read its params.yaml; all else is up to date then.
    """
    from uld.commands import blocks  # brings torch, which a new project need not wait for

    path = folder / "params.yaml"
    if not path.is_file():
        raise ULDError(f"{folder} is no project, it has no params.yaml: `uld new {folder} --images PATH` makes one.")
    _write_versioned(folder, clone(folder.resolve()))
    if wrong := blocks.problems(path):
        raise ParamsError("\n".join([f"dvc.yaml is of uld {uld.__version__} now, but params.yaml is not:", *wrong]))
    return [f"{folder}: dvc.yaml is of uld {uld.__version__}; params.yaml stays as it is.", "Next: dvc repro"]


def _count(images: Path) -> int:
    """Number of photographs below a folder."""
    if not images.is_dir():
        raise DataError(f"{images} is no folder: give --images the folder of your photographs.")
    return len(walk(images))


def _refuse_occupied(folder: Path, images: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ULDError(f"{folder} is a file: name a new folder.")
    there = sorted(path.name for path in folder.iterdir() if path.name != ".git") if folder.is_dir() else []
    inside = images.relative_to(folder.resolve()).parts[:1] if images.is_relative_to(folder.resolve()) else ()
    others = [name for name in there if name not in inside]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise ULDError(
            f"{folder} is not empty (it holds {', '.join(others[:3])}{more}): name a new folder. In a project, "
            f"`uld new {folder} --update` writes dvc.yaml anew."
        )


def _refuse_without_dvc() -> None:
    if shutil.which("dvc") is None:
        raise NotInstalled(
            f"`dvc` is not on PATH, and it runs the project: activate the environment of {sys.executable} first, or "
            "`pip install dvc` there."
        )


def _put_under_control(folder: Path) -> None:
    """Make the folder a DVC project: under the Git that it lies in, or one of its own, or none where Git is missing."""
    top = _git_root(folder)
    if top is None and shutil.which("git"):
        _run(["git", "init", "--quiet"], folder)
        top = folder
    way = ["--no-scm"] if top is None else [] if top == folder else ["--subdir"]
    _run([sys.executable, "-m", "dvc", "init", "--quiet", *way], folder)
    settings = (FILES / "config").read_text(encoding="utf-8")
    if top is None:
        settings = settings.replace("autostage = true", "no_scm = true")
    (folder / ".dvc/config").write_text(settings, encoding="utf-8")
    with (folder / ".dvc/.gitignore").open("a", encoding="utf-8") as file:
        file.write("/remotes\n")  # where the remote `heavy` of the settings lies
    shutil.copytree(FILES / "plots", folder / ".dvc/plots", dirs_exist_ok=True)


def _git_root(folder: Path) -> Path | None:
    """The top of the Git repository that a folder lies in, if any."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, text=True)
    return Path(done.stdout.strip()).resolve() if done.returncode == 0 else None


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason given"]
        raise ULDError(f"`{' '.join(command)}` failed in {folder}: {reason[-1]}")


def _write_params(folder: Path, source: Path, landmarks: int, code: str) -> None:
    """The packaged params.yaml with the preset `folder`."""
    path = folder / "params.yaml"
    shutil.copyfile(FILES / "params.yaml", path)
    tree, _ = presets.apply(presets.load("folder", folder / source), path)
    for key, value in {"source": source.as_posix(), "landmarks": landmarks, "code": code}.items():
        edit.put(tree, key, value, path)
    edit.save(path, tree)


def _write_versioned(folder: Path, root: Path | None) -> None:
    """dvc.yaml; and where the installed package runs, the files by which DVC sees that another version does."""
    shutil.copyfile(FILES / "graph.yaml", folder / "dvc.yaml")
    if root is None:
        for part in ("uld", "stages"):
            (folder / OWN / part).mkdir(parents=True, exist_ok=True)
            (folder / OWN / part / "version.txt").write_text(f"{uld.__version__}\n", encoding="utf-8")
