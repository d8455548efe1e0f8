"""The image files below a folder: nothing that has an image's name vanishes without a word."""

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from uld.base import given
from uld.base.errors import DataError
from uld.images.decode import SUFFIXES

log = logging.getLogger(__name__)

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # carriage return, newline, escape: terminals and tables obey them
NOWHERE = "is a link that leads nowhere: mend or remove it, or the disk that it leads to is missing"


def walk(folder: Path, ours: Callable[[str], bool] = lambda _: False) -> tuple[list[str], int]:
    """The names of all image files below `folder`, relative to it with forward slashes, in no order; and other files.

    Hidden files and folders are left out. A link to a folder is followed, unless the folder that it leads to is read
    under another name already: this is said in a warning. A link to a file is that file, and one that leads nowhere is
    found too if it has an image's name: reading it then says why it cannot be read.

    Args:
        folder: where to begin.
        ours: whether a name, relative to `folder`, is that of a file which does not count as another one.

    Returns:
        The names, and how many visible files have no image's suffix.

    Raises:
        DataError: no folder, one below it that cannot be read, a link that leads back to a folder above it, a named
            pipe, socket or device with an image's name.
    """
    _must_be_folder(folder)
    search = _Search(folder, ours)
    search.enter("", os.path.realpath(folder))
    while search.links:
        _follow(search, *min(search.links))
    return search.images, search.others


def check_name(name: str) -> None:
    """Refuse the name of a file that a table or a terminal would not show as it is.

    Raises:
        DataError: it is not UTF-8, or has control characters.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the file name {name!r} is not UTF-8: rename the file or its folder.") from error
    if CONTROL.search(name):
        raise DataError(f"the file name {name!r} has control characters: rename the file or its folder.")


class _Search:
    """What a walk has found: images, the number of other files, folders that were entered, and links to folders."""

    def __init__(self, folder: Path, ours: Callable[[str], bool]) -> None:
        self.folder, self.ours = folder, ours
        self.images: list[str] = []
        self.others = 0
        self.entered: set[str] = set()  # by their real paths
        self.links: set[tuple[str, str]] = set()  # (name, real path of the folder that it lies in)

    def enter(self, name: str, real: str) -> None:
        """Look through a folder and all real folders below it; the links among them come later."""
        places = [(name, real)]
        while places:
            name, real = places.pop()
            if real in self.entered:
                log.warning("%s: is read under another name already and passed over.", self.folder / name)
                continue
            self.entered.add(real)
            for entry in _visible(self.folder / name):
                below = f"{name}/{entry.name}" if name else entry.name
                if entry.is_dir(follow_symlinks=False):
                    places.append((below, os.path.join(real, entry.name)))
                else:
                    self._take(entry, below, real)

    def _take(self, entry: os.DirEntry[str], name: str, real: str) -> None:
        """A file, a link, or something special."""
        mode = _mode(entry, self.folder / name)
        if stat.S_ISDIR(mode):
            self.links.add((name, real))
        elif os.path.splitext(name)[1].lower() in SUFFIXES:
            if what := given.special(mode):
                raise DataError(f"{self.folder / name}: is {what} and no image: remove it, or hide it by a dot.")
            self.images.append(name)
        elif not mode:
            log.warning("%s: %s.", self.folder / name, NOWHERE)
        elif not self.ours(name):
            self.others += 1


def _follow(search: _Search, name: str, holder: str) -> None:
    search.links.remove((name, holder))
    target = os.path.realpath(search.folder / name)
    if os.path.commonpath([target, holder]) == target:
        raise DataError(f"{search.folder / name}: is a link to {target}, a folder that holds it: remove the link.")
    search.enter(name, target)


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from error


def _mode(entry: os.DirEntry[str], path: Path) -> int:
    """What stands behind a name, as in `os.stat`; 0 of a link that leads nowhere."""
    if entry.is_file(follow_symlinks=False):  # most are, and the folder's list says so
        return stat.S_IFREG
    try:
        return entry.stat().st_mode
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError:
        return 0


def _must_be_folder(folder: Path) -> None:
    try:
        there = stat.S_ISDIR(os.stat(folder).st_mode)
    except PermissionError as error:
        raise _unreadable(folder, error) from error
    except (OSError, ValueError):  # too long a name, or one with a NUL byte
        there = False
    if not there:
        raise DataError(f"{folder} is no folder: set `source` in params.yaml to the folder of your images.")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be entered ({error.strerror}): let it be read, as by `chmod u+rx`, or hide it by a dot."
    )
