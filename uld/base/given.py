"""Files that a user gives. Nothing but a regular file is ever opened: reading a named pipe would wait for ever."""

import os
import stat
from pathlib import Path

from uld.base.errors import DataError, ULDError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def exists(path: Path) -> bool:
    """Whether anything has this name: a link that leads nowhere too, which must not pass for no file."""
    return os.path.lexists(path)


def special(mode: int) -> str:
    """What stands there, by the mode of `os.stat`, if it is no regular file; else nothing."""
    return next((name for is_so, name in KINDS if is_so(mode)), "")


def content(path: Path, error: type[ULDError] = DataError, most: int | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        path: its place, which each message begins with.
        error: what is raised.
        most: bytes that it may have.

    Raises:
        ULDError: of the kind `error`: no regular file, more than `most` bytes, or it cannot be read.
    """
    try:
        state = path.stat()
        if what := special(state.st_mode):
            raise error(f"{path}: is {what} where a file is expected: move or rename it.")
        if most is not None and state.st_size > most:
            raise error(
                f"{path}: the file has {state.st_size / 1e6:.0f} MB, more than the {most / 1e6:.0f} MB allowed: "
                "shrink it, or raise ULD_IMAGE_MB."
            )
        return path.read_bytes()
    except OSError as wrong:
        raise error(f"{path}: cannot be opened ({wrong.strerror or wrong}): {_remedy(path, wrong)}.") from wrong
    except ValueError as wrong:  # a NUL byte in the name
        raise error(f"{str(path)!r}: is no name of a file ({wrong}): correct it.") from wrong


def _remedy(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "let it be read, as by `chmod u+r`; it may be sound"
    if path.is_symlink():
        return "the link leads nowhere: mend or remove it"
    return "correct its name, or restore it"


def text(path: Path, error: type[ULDError] = DataError) -> str:
    """The text of a regular file in UTF-8, without the byte-order mark that some editors put before it.

    Raises:
        ULDError: of the kind `error`: as `content`, or it is no UTF-8.
    """
    data = content(path, error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = data[: wrong.start].count(b"\n") + 1
        raise error(f"{path}, line {line}: is no UTF-8 text: save the file in the encoding UTF-8.") from wrong
