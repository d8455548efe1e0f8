"""How files and folders get their names: whole and on the disk, or not at all.

What is written lies under a temporary name beside the target until it is complete and synced. A stage that is killed
or runs into a full disk leaves what was there before.
"""

import errno
import fcntl
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

LONGEST = 200  # bytes of a name that its temporary name still repeats; systems allow 255


def write(path: Path, data: bytes) -> None:
    """Make a file of these bytes."""
    with atomic(path) as part:
        part.write_bytes(data)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that becomes `path` when the block ends well, and vanishes otherwise.

    Two writers of one target have a temporary file each; the last one wins.
    """
    with _part(path, _new_file) as part:
        yield part
        _sync(part)
        os.replace(part, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: a temporary one, empty at first, that takes the place of `path` and of all in it."""
    with _part(path, os.mkdir) as part:
        yield part
        sync_folder(part)
        remove(path)
        os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Have all that lies below a folder on the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _part(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside `path`, locked while the block lasts, and removed if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, lock = _claim(path, make)
    try:
        yield part
    except BaseException:
        remove(part)
        raise
    finally:  # whoever takes the name after it was free removes what is not locked
        os.close(lock)
    _sync(path.parent)


def _claim(path: Path, make: Callable[[Path], None]) -> tuple[Path, int]:
    """The first temporary name that no other writer holds, and the open file that locks it.

    Whatever else lies under such a name is left over from a process that was killed, or planted: it is removed and
    never written to.
    """
    name = path.name if len(os.fsencode(path.name)) <= LONGEST else sha256(os.fsencode(path.name)).hexdigest()
    for number in itertools.count():
        part = path.with_name(f".{name}.{number}.part")
        if _left_over(part):
            remove(part)
        try:
            make(part)
        except FileExistsError:
            continue
        lock = _opened(part)
        if lock is None:
            continue  # another writer took it for left over
        if _locked(lock) and _is_still(part, lock):
            return part, lock
        os.close(lock)
    raise AssertionError("there is no end to the numbers")


def _new_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _left_over(part: Path) -> bool:
    """Whether something has this name that no process is writing."""
    try:
        kind = os.lstat(part).st_mode
    except FileNotFoundError:
        return False
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return True
    lock = _opened(part)
    if lock is None:
        return False
    free = _locked(lock, without_locks=False)
    os.close(lock)
    return free


def _opened(part: Path) -> int | None:
    """The file or folder, opened; None if it is gone."""
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _locked(file: int, without_locks: bool = True) -> bool:
    """Lock an open file if nobody else has; the answer is `without_locks` on a file system that has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    return True


def _is_still(part: Path, lock: int) -> bool:
    """Whether a name is that of an open file: another writer may have removed it before it was locked."""
    try:
        return os.path.samestat(os.lstat(part), os.fstat(lock))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(file)
