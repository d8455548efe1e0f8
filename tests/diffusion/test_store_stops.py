"""Whatever stops the writer of a feature store, its finished shards are kept and the result is the same."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.diffusion.filling import Counting, build, digest, fail
from uld.base import stop
from uld.base.scratch import scratch_folder
from uld.diffusion import building

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("small_shards")


def test_a_failure_costs_its_own_shard_only(tmp_path: Path, whole: Path) -> None:
    first, second = Counting(12, fail(RuntimeError("power"))), Counting()
    with pytest.raises(RuntimeError, match="power"):
        build(tmp_path / "b", first)
    assert not (tmp_path / "b").exists()
    path = build(tmp_path / "b", second)
    assert (first.first, second.first) == ([0, 6, 12], [12, 18])
    assert digest(path) == digest(whole)


def test_a_signal_ends_it_after_the_shard(tmp_path: Path, whole: Path) -> None:
    first, second = Counting(6, lambda: os.kill(os.getpid(), signal.SIGTERM)), Counting()
    with pytest.raises(stop.Interrupted, match="2 of 4 shards are kept; run again to go on"):
        build(tmp_path / "b", first)
    path = build(tmp_path / "b", second)
    assert (first.first, second.first) == ([0, 6], [12, 18])
    assert digest(path) == digest(whole)


def test_a_signal_in_the_last_shard_lets_it_finish(tmp_path: Path, whole: Path) -> None:
    path = build(tmp_path / "b", Counting(18, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert digest(path) == digest(whole)


def test_a_full_disk_keeps_the_finished_shards(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = building._write_shard

    def full(chunks: Any, place: str, *rest: Any) -> None:
        if place == "of rows 6..8":  # the third shard: 12 items of six rows are before it
            raise OSError(errno.ENOSPC, "No space left on device")
        write(chunks, place, *rest)

    monkeypatch.setattr(building, "_write_shard", full)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path / "b")
    monkeypatch.setattr(building, "_write_shard", write)
    second = Counting()
    assert digest(build(tmp_path / "b", second)) == digest(whole)
    assert second.first == [12, 18]


def test_a_half_written_shard_is_written_anew(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(RuntimeError):
        build(tmp_path / "b", Counting(18, fail(RuntimeError())))
    (partial,) = scratch_folder("x").parent.glob("*/store.zarr")
    target = partial / "l00_t5/c/3/0/0/0"
    assert target.is_file()
    target.write_bytes(b"half a shard")
    assert digest(build(tmp_path / "b")) == digest(whole)


def no_note(partial: Path) -> None:
    (partial.parent / "done-000000006").write_bytes(b"")


def half_a_note(partial: Path) -> None:
    note = partial.parent / "done-000000006"
    note.write_text(note.read_text().splitlines(keepends=True)[0])


def no_header(partial: Path) -> None:
    (partial / "zarr.json").write_bytes(b"")


def half_a_header(partial: Path) -> None:
    header = partial / "zarr.json"
    header.write_bytes(header.read_bytes()[:20])


def an_array_less(partial: Path) -> None:
    shutil.rmtree(partial / "l00_t5")


@pytest.mark.parametrize(
    ("harm", "again"),
    [
        (no_note, [6, 18]),
        (half_a_note, [6, 18]),
        (no_header, [0, 6, 12, 18]),
        (half_a_header, [0, 6, 12, 18]),
        (an_array_less, [0, 6, 12, 18]),
    ],
)
def test_unfinished_work_that_was_damaged(
    tmp_path: Path,
    whole: Path,
    harm: Callable[[Path], None],
    again: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A shard without a whole note is computed again; a store that cannot be filled is put aside with a line."""
    with pytest.raises(RuntimeError):
        build(tmp_path / "b", Counting(18, fail(RuntimeError())))
    (partial,) = scratch_folder("x").parent.glob("*/store.zarr")
    harm(partial)
    second = Counting()
    assert digest(build(tmp_path / "b", second)) == digest(whole)
    assert second.first == again
    warned = f"{partial} is damaged" in capsys.readouterr().out
    assert warned == (len(again) == 4)


def test_shards_of_a_store_that_is_gone_do_not_count(tmp_path: Path, whole: Path) -> None:
    """Killed after the store got its name but before the scratch folder was emptied; then the output was deleted."""
    with pytest.raises(RuntimeError):
        build(tmp_path / "b", Counting(18, fail(RuntimeError())))
    (partial,) = scratch_folder("x").parent.glob("*/store.zarr")
    shutil.rmtree(partial)
    second = Counting()
    assert digest(build(tmp_path / "b", second)) == digest(whole)
    assert second.first == [0, 6, 12, 18]


def test_scratch_on_another_disk(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename across disks fails; the copy still gets its name in one step, and the scratch folder is emptied."""
    rename, named = os.replace, []

    def across(source: Path, target: Path) -> None:
        if ("scratch" in str(source)) != ("scratch" in str(target)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        named.append(Path(target).name)
        rename(source, target)

    monkeypatch.setattr(building.os, "replace", across)
    path = build(tmp_path / "b")
    assert digest(path) == digest(whole)
    assert "trained.zarr" in named
    assert list(path.parent.iterdir()) == [path]
    assert not list(scratch_folder("x").parent.glob("*/store.zarr"))


def test_a_new_store_replaces_the_old_one(tmp_path: Path, whole: Path) -> None:
    path = build(tmp_path / "b", rows=4)
    (path / "stray").write_text("old")
    assert digest(build(tmp_path / "b")) == digest(whole)


CHILD = """
import time
from collections.abc import Callable
from pathlib import Path
from tests.diffusion import filling
from uld.base import stop
from uld.base.scratch import scratch_folder
from uld.diffusion import building

compute, write = filling.compute, building._write
{more}
building.SHARD_BYTES = filling.SHARD_BYTES
stop.run(lambda: filling.build(Path({folder!r}), compute) and None)
"""
IN_THE_MIDDLE = {  # what is being done, how, and the shards that are to be computed again
    "computing": (
        """
def compute(first, end):
    for part in filling.compute(first, end):
        yield part
        while first == 12:
            if list(scratch_folder("x").parent.glob("*/done-000000006")):
                print("now", flush=True)
            time.sleep(0.05)
""",
        [12, 18],
    ),
    "writing": (
        """
def half(chunks, part, place):
    first, *others = part.items()
    write(chunks, dict([first]), place)
    while list(scratch_folder("x").parent.glob("*/done-000000000")):
        print("now", flush=True)
        time.sleep(0.05)
    write(chunks, dict(others), place)
building._write = half
""",
        [6, 12, 18],
    ),
}


def child(folder: Path, more: str = "") -> str:
    return CHILD.format(folder=str(folder), more=more)


@pytest.mark.parametrize("what", IN_THE_MIDDLE)
def test_kill_9_and_resume_give_the_same_bytes(tmp_path: Path, whole: Path, what: str) -> None:
    more, again = IN_THE_MIDDLE[what]
    program = [sys.executable, "-c", child(tmp_path / "b", more)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        next(line for line in running.stdout if line.strip() == "now")
        running.kill()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    second = Counting()
    assert digest(build(tmp_path / "b", second)) == digest(whole)
    assert second.first == again


TOGETHER = """
from collections.abc import Callable
from pathlib import Path
from tests.diffusion import filling
from uld.base import ranks
from uld.diffusion import building

def computing(first, end):
    Path({folder!r}, "computed").mkdir(parents=True, exist_ok=True)
    Path({folder!r}, "computed", f"{{first}}").touch(exist_ok=False)  # by one process
    return filling.compute(first, end)

building.SHARD_BYTES = filling.SHARD_BYTES
ranks.divided(lambda: filling.build(Path({folder!r}), computing) and None)
"""


def test_two_processes_give_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    """And the same checksum, which the first process makes of the shards of both."""
    program = tmp_path / "together.py"
    program.write_text(TOGETHER.format(folder=str(tmp_path / "b")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    subprocess.run(torchrun, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "b/computed").iterdir()} == {"0", "6", "12", "18"}
    assert digest(tmp_path / "b/features/trained.zarr") == digest(whole)


def _can_mount() -> bool:
    if shutil.which("unshare") is None or os.sysconf("SC_PAGE_SIZE") != 4096:
        return False
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="needs user namespaces to make a disk of a few 4 KB pages")
def test_a_really_full_disk(tmp_path: Path) -> None:
    """A disk of eleven pages, room for the metadata and two shards: they are kept; with more room it goes on."""
    disk, program = tmp_path / "disk", tmp_path / "child.py"
    disk.mkdir()
    program.write_text(child(tmp_path / "b"))
    script = f"""
        mount -t tmpfs -o size=44k tmpfs {disk}
        "$PYTHON" {program}; echo code $?
        echo kept $(ls {disk}/*/ | grep -c done-)
        mount -o remount,size=2m {disk}
        "$PYTHON" {program}; echo code $?
    """
    environment = os.environ | {"ULD_SCRATCH": str(disk), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in done.stderr
    assert "Free or unlock the place and run again: finished work is kept." in done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("code", "kept"))]
    assert (said[0], said[2]) == ("code 2", "code 0"), done.stdout
    assert int(said[1].split()[1]) >= 1
    assert (tmp_path / "b/features/trained.zarr/zarr.json").is_file()
