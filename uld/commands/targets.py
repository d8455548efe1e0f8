"""Where a command may write: what is refused is refused before any work."""

import os
from pathlib import Path

from uld.base.errors import DataError
from uld.images.decode import SUFFIXES

LONGEST = 255  # bytes of a name, on nearly every file system


def refuse_out(out: Path) -> None:
    """Look at the place of the CSV.

    Raises:
        DataError: it is there and no plain file, would lie where no file can be made, or is named like a picture.
    """
    if os.path.islink(out):
        raise DataError(f"{out} is a symbolic link: give --out the file itself, {os.path.realpath(out)}.")
    if os.path.isdir(out):
        raise DataError(f"{out} is a folder: give --out the name of a CSV file.")
    if os.path.lexists(out) and not os.path.isfile(out):
        raise DataError(f"{out} is a device or a pipe: give --out the name of a CSV file, and copy that.")
    if out.suffix.lower() in SUFFIXES:
        raise DataError(f"{out} is named like a picture: give --out the name of a CSV file.")
    if len(os.fsencode(out.name)) > LONGEST:
        raise DataError(f"{out}: the name has more than {LONGEST} bytes: give --out a shorter one.")
    _refuse_folder(out.absolute().parent, "--out")


def refuse_overlay(overlay: Path, inputs: list[Path]) -> None:
    """Look at the folder of the pictures.

    Args:
        inputs: files and folders of photographs.

    Raises:
        DataError: no folder can be there, or it lies in a folder of photographs.
    """
    _refuse_folder(overlay.absolute(), "--overlay")
    for given in inputs:
        if given.is_dir() and _found_below(given, overlay):
            raise DataError(
                f"{overlay} lies in {given}, so the next run would take its pictures for photographs: give --overlay a "
                "folder outside."
            )


def refuse_inputs(out: Path, paths: list[Path]) -> None:
    """Look whether one of the photographs is the CSV.

    Raises:
        DataError: it is, by whatever name.
    """
    if same := [path for path in paths if _same(path, out)]:
        raise DataError(f"{out} is one of the inputs ({same[0]}): give --out another name.")


def _refuse_folder(folder: Path, option: str) -> None:
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise DataError(f"{there} is no folder: give {option} a place below a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"{there} may not be written to: give {option} another place, or yourself the right to.")


def _found_below(folder: Path, overlay: Path) -> bool:
    """Whether a search of the folder comes upon pictures in `overlay`: it leaves hidden folders out."""
    inside, top = Path(os.path.realpath(overlay)), Path(os.path.realpath(folder))
    return inside.is_relative_to(top) and not any(part[0] == "." for part in inside.relative_to(top).parts)


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.abspath(one) == os.path.abspath(other)
