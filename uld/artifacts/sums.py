"""Checksums of the files of a folder, in the folder: a line a file, as `sha256sum` writes them and checks them."""

import re
from pathlib import Path

from uld.artifacts.files import damaged, sha256
from uld.base.errors import ArtifactError
from uld.base.writing import write

FILE = "sha256.txt"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Note all files that are there, hidden ones left out."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in _names(folder)]
    write(folder / FILE, "".join(lines).encode())


def check_sums(folder: Path, remedy: str) -> None:
    """Compare all files with what was noted.

    Args:
        remedy: what the message says to do about a file that is not as it was.

    Raises:
        ArtifactError: a file is missing, damaged or too many, or may not be read.
    """
    noted, there = _noted(folder / FILE, remedy), set(_names(folder))
    if missing := sorted(noted.keys() - there):
        raise ArtifactError(f"{folder / missing[0]} is missing: {remedy}.")
    if more := sorted(there - noted.keys()):
        raise ArtifactError(f"{folder / more[0]} does not belong there: remove it, or {remedy}.")
    for name, digest in noted.items():
        if _sum(folder / name) != digest:
            raise ArtifactError(f"{folder / name} is damaged, or was changed after {FILE} was written: {remedy}.")


def _names(folder: Path) -> list[str]:
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != FILE and not any(part[0] == "." for part in name.split("/")))


def _noted(path: Path, remedy: str) -> dict[str, str]:
    try:
        lines = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing: {remedy}.") from error
    except PermissionError as error:
        raise damaged(path, "predict", error) from error
    except ValueError:
        lines = []
    if not lines or None in lines:
        raise ArtifactError(f"{path} is damaged: {remedy}.")
    return {found[2]: found[1] for found in lines if found}


def _sum(path: Path) -> str:
    try:
        return sha256(path)
    except PermissionError as error:
        raise damaged(path, "predict", error) from error
