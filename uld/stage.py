"""Run one stage of the project in the current folder: `python -m uld.stage train duld-1`, as dvc.yaml does.

A project is any folder with dvc.yaml and params.yaml. Its code is the clone of this repository that it lies in, where
there is one: the root is a project, studies/<name>/ lie in it, and DVC runs a queued experiment in a clone of its own.
Elsewhere the installed package runs. This file is imported before it is known which code runs: it imports no other but
what makes Ctrl-C end in one line, and where the other code is to run the process starts anew.
"""

import os
import runpy
import sys
from pathlib import Path

from uld.base import early

HERE = Path(__file__).resolve().parents[1]  # the folder that holds the running uld/ and stages/
# stands for the code of a project that lies in no clone: `code` in its params.yaml; version.txt in its folders uld/ and
# stages/ says which version of the package made the project
OWN = ".uld"


def main() -> None:
    """Find the code, and become the stage's script."""
    early.prepare()
    found = clone(Path.cwd())
    if found and found != HERE:
        _start_anew(found)
    name, keys = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    there = sorted(path.stem for path in (HERE / "stages").glob("*.py"))
    if name not in there:
        _refuse(f"there is no stage '{name}': choose one of {', '.join(there)}.")
    if not found:
        _same_version(Path.cwd())
    sys.argv = [name, *keys]
    # as `python -m stages.<name>` would: uld.base.ranks starts a stage anew by the name of its main module
    runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)


def clone(folder: Path) -> Path | None:
    """The nearest folder from this one upward that is a clone of the repository, if any."""
    for place in (folder, *folder.parents):
        if all((place / part).exists() for part in ("uld/stage.py", "stages", "pyproject.toml")):
            return place.resolve()
    return None


def _start_anew(root: Path) -> None:
    """Become the same command with the code of `root` instead of the code that runs now."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if paths[0] == str(root):
        _refuse(f"{HERE} hides the code of {root}, which this project lies in: remove its folder uld/.")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, paths)])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _same_version(project: Path) -> None:
    """Refuse a project of another version: its lists of code, and what DVC has kept, would not be of this one."""
    from uld import __version__

    file = project / OWN / "uld/version.txt"
    if file.is_file() and file.read_text().strip() != __version__:
        made_by = file.read_text().strip()
        _refuse(f"this project is of uld {made_by}, and uld {__version__} runs: `uld new . --update`.")


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
