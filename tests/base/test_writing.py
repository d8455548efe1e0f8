"""Files and folders are there whole, or not at all."""

import errno
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from uld.base import writing
from uld.base.writing import atomic, atomic_folder, remove, write

NAMES = ["file.txt", "n" * 255, "ä" * 127, "[a]*.txt", " =.csv"]


def killed_while_writing(path: Path) -> None:
    """What a process leaves that is killed with half a file."""
    child = os.fork()
    if not child:
        try:
            with atomic(path) as part:
                part.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep" / name
    write(path, b"first")
    write(path, b"second")
    assert path.read_bytes() == b"second" and list(path.parent.iterdir()) == [path]


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_failed_writer_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    write(path, b"old")
    with pytest.raises(type(error)), atomic(path) as part:
        part.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_system_that_refuses_leaves_the_old_file(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write(path, b"old")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(writing.os, call, refuse)
    with pytest.raises(OSError, match="broken"):
        write(path, b"new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    write(path, b"newer")  # and no leftover is an obstacle
    assert path.read_text() == "newer" and list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    killed_while_writing(path)
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    write(path, b"whole")  # which removes what was left
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "whole"


def plant_link(part: Path, victim: Path) -> None:
    part.symlink_to(victim)


def plant_hard_link(part: Path, victim: Path) -> None:
    os.link(victim, part)


def plant_pipe(part: Path, victim: Path) -> None:
    os.mkfifo(part)


def plant_folder(part: Path, victim: Path) -> None:
    part.mkdir()
    (part / "within").touch()


@pytest.mark.parametrize("plant", [plant_link, plant_hard_link, plant_pipe, plant_folder])
def test_what_is_planted_under_a_temporary_name_is_not_written_to(
    tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out" / "file.txt"
    victim.write_text("mine")
    path.parent.mkdir()
    plant(path.with_name(".file.txt.0.part"), victim)
    write(path, b"whole")
    assert victim.read_text() == "mine"
    assert list(path.parent.iterdir()) == [path] and stat.S_ISREG(path.lstat().st_mode)


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic(path) as first:
        first.write_text("first")
        with atomic(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_name_that_another_writer_takes_for_left_over_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a temporary file and locking it, somebody may remove it."""
    made: list[Path] = []
    honest = writing._new_file

    def robbed(part: Path) -> None:
        honest(part)
        made.append(part)
        if len(made) == 1:
            part.unlink()

    monkeypatch.setattr(writing, "_new_file", robbed)
    write(tmp_path / "file.txt", b"ours")
    assert (tmp_path / "file.txt").read_bytes() == b"ours" and len(made) == 2


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, what was left over is passed by."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    killed_while_writing(tmp_path / "file.txt")
    monkeypatch.setattr(writing.fcntl, "flock", none)
    write(tmp_path / "file.txt", b"whole")
    assert (tmp_path / "file.txt").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 2


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with atomic_folder(path) as part:
            (part / "below").mkdir()
            (part / "below" / name).write_text(name)
            assert not path.exists() or name == "new"
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["below", "below/new"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as part:
        (part / "old").touch()
    with pytest.raises(KeyError), atomic_folder(path) as part:
        (part / "new").touch()
        raise KeyError
    assert list(tmp_path.rglob("*")) == [path, path / "old"]


def test_all_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = writing._sync, os.replace
    monkeypatch.setattr(writing, "_sync", lambda path: (done.append(f"sync {path.name}"), sync(path))[1])
    monkeypatch.setattr(writing.os, "replace", lambda a, b: (done.append(f"rename {a.name}"), replace(a, b))[1])
    with atomic_folder(tmp_path / "out" / "folder") as part:
        (part / "a").touch()
    assert done == ["sync a", "sync .folder.0.part", "rename .folder.0.part", "sync out"]


def test_remove(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "within").mkdir(parents=True)
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(kept)
    file.touch()
    for path in (link, file, tmp_path / "absent"):
        remove(path)
    assert sorted(tmp_path.iterdir()) == [kept] and (kept / "within").is_dir()
    remove(kept)
    assert not kept.exists()
