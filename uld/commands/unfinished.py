"""A CSV that grows batch by batch and gets its name at the end; a run that was stopped is taken up where it was.

Until then it lies in a hidden folder beside its final place, with a note of how far it is and of what.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from uld.base.errors import DataError
from uld.base.writing import write

ROWS, NOTE = "rows.csv", "done.json"
IDENTITY, COUNT, SIZE, MORE = "identity", "count", "bytes", "more"  # keys of the note


class Unfinished:
    """The rows so far. `count`: items that are done; `more`: what was noted with them, None at the beginning.

    `stale` says whether there were rows of something else, which are gone.
    """

    def __init__(self, folder: Path, file: IO[bytes], identity: str) -> None:
        """Use `rows_of`."""
        self._folder, self._file, self._identity = folder, file, identity
        note = _read(folder / NOTE)
        size = os.fstat(file.fileno()).st_size
        fits = note is not None and note[IDENTITY] == identity and note[SIZE] <= size
        self.stale = size > 0 and not fits
        self.count: int = note[COUNT] if note and fits else 0
        self.more: Any = note[MORE] if note and fits else None
        file.truncate(note[SIZE] if note and fits else 0)  # what was written behind the last note may be half a row
        file.seek(0, os.SEEK_END)

    def write(self, rows: bytes) -> None:
        """Add rows that the next `note` makes last."""
        self._file.write(rows)

    def note(self, count: int, more: Any) -> None:
        """Say that `count` items are done: their rows are on the disk before the note is.

        Args:
            more: a JSON tree to be found again in `more`.
        """
        self._save()
        self.count = count
        tree = {IDENTITY: self._identity, COUNT: count, SIZE: self._file.tell(), MORE: more}
        write(self._folder / NOTE, json.dumps(tree).encode())

    def finish(self, out: Path) -> None:
        """Give the rows their final name."""
        self._save()
        os.replace(self._folder / ROWS, out)
        shutil.rmtree(self._folder)

    def _save(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def rows_of(out: Path, **identity: Any) -> Iterator[Unfinished]:
    """The rows that are to become `out`: those of an earlier run with the same identity, or none yet.

    They get their name when the block ends well. When it does not they stay, if there are any.

    Args:
        identity: JSON trees that together define the rows.

    Raises:
        DataError: another process is at the same file.
    """
    folder = out.with_name(f".uld-{_digest(out.name)[:12]}")  # short, however long the name is
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ROWS).open("ab") as file:
        _lock(file, out)
        rows = Unfinished(folder, file, _digest(json.dumps(identity, sort_keys=True)))
        try:
            yield rows
            rows.finish(out)
        except BaseException:
            if not rows.count:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _lock(file: IO[bytes], out: Path) -> None:
    busy = f"another process writes {out}: wait for it, or stop it."
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(busy) from error
    except OSError:  # a file system without locks
        pass
    if not os.path.exists(file.name) or not os.path.samestat(os.fstat(file.fileno()), os.stat(file.name)):
        raise DataError(busy)  # it has just finished: what was opened is `out` by now


def _read(path: Path) -> dict[str, Any] | None:
    """The note, None if there is none or it is not whole."""
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and note.keys() == {IDENTITY, COUNT, SIZE, MORE} else None
