"""Projects are folders: which there are, what one still needs, and the results table of one or of all."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from uld import datasets
from uld.base import params, shown
from uld.base.errors import ArtifactError, ULDError
from uld.commands import experiments, kept, table
from uld.commands.table import Choice, Results
from uld.stage import clone

SEEDS = Path("seeds.csv")


@dataclass(frozen=True)
class Look:
    """What `uld table` shows of a project.

    name: a table of `report.tables`, None for every row. Of `experiments` (what DVC kept) and `kept` (a table of runs)
    one at most; neither: of the last run. published: with the paper's errors beside.
    """

    name: str | None
    choice: Choice
    experiments: bool = False
    kept: Path | None = None
    published: bool = False

    def results(self) -> Results:
        """Of the project in the current folder.

        Raises:
            ULDError: there is nothing to show; the message says what to do.
        """
        rows = table.named(self.name) if self.name else list(params.read(dict[str, object], "rows"))
        if self.experiments or self.kept:
            runs = kept.read(self.kept) if self.kept else experiments.kept_by_dvc()
            found = experiments.results(replace(self.choice, rows=rows), runs)
        else:
            found = self._of_last_run(replace(self.choice, rows=rows))
        return table.with_paper(found) if self.published else found

    def _of_last_run(self, choice: Choice) -> Results:
        try:
            return table.of_run(choice)
        except ArtifactError as error:
            raise ArtifactError(f"{error} {remedy(Path())}") from error


@contextlib.contextmanager
def entered(project: Path) -> Iterator[None]:
    """Go into a project's folder for a while.

    Raises:
        ULDError: it is no project.
    """
    if not all((project / name).is_file() for name in ("dvc.yaml", "params.yaml")):
        there = ", ".join(_shown(one) for one in every(Path.cwd())) or "none here"
        raise ULDError(f"{project} is no project, a folder with dvc.yaml and params.yaml. Projects: {there}.")
    with contextlib.chdir(project):
        yield


def every(folder: Path) -> list[Path]:
    """The root and the studies of the clone that a folder lies in; elsewhere the folder itself, if it is a project."""
    root = clone(folder) or folder
    files = [root / "params.yaml", *sorted(root.glob("studies/*/params.yaml"))]
    return [path.parent for path in files if path.is_file()]


def remedy(project: Path) -> str:
    """What makes the figures of a project that has none, as a sentence."""
    said = _data(project) or f"Run `dvc repro` in {project.resolve()}"
    if (project / SEEDS).is_file():
        said += f"; `uld table --kept {SEEDS}` there shows those of earlier runs"
    return f"{said}."


def _data(project: Path) -> str:
    """What makes the project's photographs, if they are not there."""
    path = project / "params.yaml"
    name, source = params.read(str, "dataset", path), params.read(str, "source", path)
    if (project / source).exists():
        return ""
    command = datasets.kind(name).makes.format(source=source)
    if not command:
        return f"The folder {source} is not there, which `source` in {path.resolve()} names"
    folder = project.resolve()
    also = f" (in the root, `make study NAME={folder.name}` does both)" if folder.parent.name == "studies" else ""
    return f"Its data are not there: run `{command}` in {folder}, then `dvc repro`{also}"


def _shown(project: Path) -> str:
    """A project as it can be typed here."""
    return Path(os.path.relpath(project)).as_posix()


def show_all(look: Look, how: str) -> None:
    """Print a table a project; of one that has not been run, what earlier runs found, or what makes the figures."""
    for project in every(Path.cwd()):
        name = _shown(project)
        with contextlib.chdir(project):
            try:
                found = _first(look)
            except ULDError as error:
                print(shown.message(f"{name}: {error}\n"))
                continue
        if how == "md":
            print(f"**{name}**\n")
        table.show(replace(found, title=f"{name}: {found.title}"), how)
        print()


def _first(look: Look) -> Results:
    """Of the last run, or else of the runs that were kept."""
    try:
        return look.results()
    except ArtifactError:
        if look.experiments or look.kept or not SEEDS.is_file():
            raise
        return replace(look, kept=SEEDS).results()
