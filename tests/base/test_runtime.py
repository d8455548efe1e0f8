"""The machine's side: random streams, scratch folders, interruption and exit codes."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from uld.base import random, runtime, stop
from uld.base.errors import DataError, ParamsError, ULDError
from uld.base.scratch import _locks, scratch_folder, unnamed_file

ROOT = Path(__file__).parents[2]

STREAMS: list[tuple[int, str, tuple[int, ...]]] = [
    (0, "a", ()),
    (0, "a", (0,)),
    (0, "a", (0, 0)),
    (0, "a", (1,)),
    (0, "b", ()),
    (1, "a", ()),
    (1, "a", (0,)),
    (2**40, "a", ()),
]


# --- random streams ---


def test_streams_differ_from_each_other() -> None:
    numbers = [random.rng(seed, purpose, *stream).random(4) for seed, purpose, stream in STREAMS]
    tensors = [
        torch.rand(4, generator=random.torch_rng(seed, purpose, *stream)).numpy() for seed, purpose, stream in STREAMS
    ]
    for one, two in [*combinations(numbers, 2), *combinations(tensors, 2)]:
        assert not np.intersect1d(one, two).size


def test_streams_are_reproducible() -> None:
    for seed, purpose, stream in STREAMS:
        np.testing.assert_array_equal(
            random.rng(seed, purpose, *stream).random(9), random.rng(seed, purpose, *stream).random(9)
        )
        one, two = (torch.rand(9, generator=random.torch_rng(seed, purpose, *stream)) for _ in range(2))
        assert torch.equal(one, two)


def test_streams_are_uncorrelated() -> None:
    draws = np.stack([random.rng(0, "noise", n).standard_normal(4000) for n in range(8)])
    off = np.corrcoef(draws)[np.triu_indices(8, 1)]
    assert np.abs(off).max() < 5 / np.sqrt(4000)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ParamsError, match="seed: must be 0 or more, not -1"):
        random.rng(-1, "a")
    with pytest.raises(ParamsError, match="seed: must be 0 or more, not -1"):
        random.torch_rng(-1, "a")


# --- environment ---


@pytest.mark.cpu
def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.device() == torch.device("cpu")
    monkeypatch.setenv("ULD_DEVICE", "gpu0")
    with pytest.raises(ULDError, match="ULD_DEVICE='gpu0' is no device"):
        runtime.device()
    monkeypatch.setenv("ULD_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ULDError, match="sees no CUDA device"):
        runtime.device()
    monkeypatch.setenv("ULD_DEVICE", "auto")
    assert runtime.device() == torch.device("cpu")


def test_each_of_several_processes_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("ULD_DEVICE", "cuda:0")
    assert runtime.device() == torch.device("cuda:0")
    for name in ("ULD_NPROC", "WORLD_SIZE"):  # before torchrun and below it
        with monkeypatch.context() as patch:
            patch.setenv(name, "2")
            with pytest.raises(ULDError, match=r"ULD_DEVICE=cuda:0 is one GPU, .*: use ULD_DEVICE=cuda"):
                runtime.device()
    for name, value in {"ULD_DEVICE": "cuda", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert runtime.device() == torch.device("cuda:1")


def test_threads_are_of_the_cores_that_a_job_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULD_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6}, raising=False)
    assert runtime.threads() == 4
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runtime.threads() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # not all systems have it
    assert runtime.threads() == 32


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, check=True, text=True).stdout


@pytest.mark.parametrize("first", ["import torch", "main = lambda: __import__('torch')"])
def test_torch_obeys_whenever_it_is_imported(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_THREADS", "1")
    code = f"from uld.base import stop\nmain = list\n{first}\nstop.run(main)\nimport torch"
    assert printed(f"{code}\nprint(torch.get_num_threads())") == "1\n"


def test_scoring_needs_no_torch() -> None:
    code = "import sys, stages.regress, stages.evaluate\nprint({'torch', 'sklearn'} & {*sys.modules})"
    assert printed(code) == "set()\n"


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5", ""])
def test_counts_must_be_whole_and_positive(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ULD_BATCH", text)
    monkeypatch.setenv("ULD_THREADS", text)
    with pytest.raises(ULDError, match=r"ULD_BATCH=.* must be a whole number"):
        runtime.batch_size()
    with pytest.raises(ULDError, match=r"ULD_THREADS=.* must be a whole number"):
        runtime.threads()


# --- scratch ---


def test_scratch_is_keyed_by_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path))
    here = scratch_folder("features", seed=1, layers=[[0, 1]])
    (here / "state").write_text("kept")
    assert here.parent == tmp_path
    assert scratch_folder("features", layers=[[0, 1]], seed=1) == here
    assert (here / "state").read_text() == "kept"
    others = [
        scratch_folder("features", seed=2, layers=[[0, 1]]),
        scratch_folder("backbone", seed=1, layers=[[0, 1]]),
    ]
    assert len({here, *others}) == 3
    assert not any(list(other.iterdir()) for other in others)


def test_resume_can_be_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    here = scratch_folder("stage", key=1)
    (here / "state").write_text("old")
    monkeypatch.setenv("ULD_RESUME", "0")
    assert not list(scratch_folder("stage", key=1).iterdir())


@pytest.mark.parametrize("process", [0, 1])
def test_no_process_sees_what_the_first_one_discards(process: int, monkeypatch: pytest.MonkeyPatch) -> None:
    old = scratch_folder("stage", key=1)
    (old / "state").write_text("old")
    seen = []

    def barrier() -> None:
        seen.append(old.exists())
        shutil.rmtree(old, ignore_errors=True)  # at the latest now the first one is here

    monkeypatch.setattr(torch.distributed, "barrier", barrier)
    for name, value in {"ULD_RESUME": "0", "WORLD_SIZE": "2", "RANK": str(process)}.items():
        monkeypatch.setenv(name, value)
    assert not list(scratch_folder("stage", key=1).iterdir())
    assert seen == [process == 1]


def test_an_unnamed_file_lies_in_the_scratch_folder_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path / "new"))
    with unnamed_file() as file:
        file.write(b"kept")
        assert os.fstat(file.fileno()).st_dev == tmp_path.stat().st_dev and os.fstat(file.fileno()).st_size == 4
        assert not list((tmp_path / "new").iterdir())


# --- interruption ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_aborts(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with stop.interruptible() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), number)
        assert interrupt
        assert "press again to abort" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


# --- exit codes ---


def ends(main: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught:
        stop.run(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("photo.png is broken."), 2, "error: photo.png is broken.\n"),
        (stop.Interrupted("saved at step 3."), 130, "interrupted: saved at step 3.\n"),
        (KeyboardInterrupt(), 130, "run the same command again"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/shard"), 2, "No space left on device: '/x/shard'. Free"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "Permission denied: '/x'. Free or unlock"),
    ],
)
def test_what_a_user_can_cause_is_one_message(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    got, said = ends(main, capsys)
    assert got == code
    assert message in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1


def test_a_wrong_environment_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ULD_THREADS", "all")
    code, said = ends(lambda: None, capsys)
    assert code == 2
    assert said == "error: ULD_THREADS='all' must be a whole number of at least 1.\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone", "x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        stop.run(main)


def test_a_lost_process_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise RuntimeError(said)

    said = "[gloo/transport/tcp/pair.cc:1] Connection closed by peer"
    with pytest.raises(RuntimeError):
        stop.run(main)
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = f"error: this stage's processes have lost each other ({said}): run again to go on.\n"
    assert ends(main, capsys) == (2, told)
    said = "a bug"
    with pytest.raises(RuntimeError):
        stop.run(main)


def test_a_real_process_ends_without_a_traceback() -> None:
    """Through the interpreter: what reaches the shell is the message and the code, nothing else."""
    program = (
        "from uld.base import stop\nfrom uld.base.errors import DataError\n"
        "def main():\n    raise DataError('no image in /photos')\n"
        "stop.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no image in /photos\n")


# --- memory and other processes ---


@pytest.fixture
def _whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_fitting", [])
    monkeypatch.setenv("ULD_BATCH", "8")


def crowded(limit: int) -> tuple[list[int], Callable[[int, int], list[int]]]:
    """Work that needs memory for each image, of which there is some for `limit`; and the sizes that were tried."""
    tried: list[int] = []

    def compute(start: int, end: int) -> list[int]:
        tried.append(end - start)
        if end - start > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, end))

    return tried, compute


@pytest.mark.usefixtures("_whole_batches")
def test_batches_are_halved_when_memory_runs_out(capsys: pytest.CaptureFixture[str]) -> None:
    tried, compute = crowded(3)
    found = dict(runtime.in_batches(compute, 11))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1] and [i for part in found.values() for i in part] == list(range(11))
    assert list(found) == [0, 2, 4, 6, 8, 10] and runtime.batch_size() == 2  # and it stays so
    assert "out of GPU memory with 8 images a pass: going on with 4 (ULD_BATCH)" in capsys.readouterr().out


@pytest.mark.usefixtures("_whole_batches")
def test_no_memory_for_one_image() -> None:
    with pytest.raises(ULDError, match="no memory for a single image"):
        list(runtime.in_batches(crowded(0)[1], 3))
    assert list(runtime.in_batches(crowded(0)[1], 0)) == []


def test_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path))
    folder = scratch_folder("stage", seed=1)
    assert scratch_folder("stage", seed=1) == folder  # this process may ask again
    again = "from uld.base.scratch import scratch_folder; print(scratch_folder('stage', seed=%d))"

    def other(seed: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", again % seed], capture_output=True, text=True)

    assert other(2).returncode == 0
    assert f"another process is at the same work in {folder}: wait for it" in other(1).stderr
    os.close(_locks.pop(folder))
    assert other(1).returncode == 0


def test_a_disk_without_locks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = scratch_folder("stage", seed=1)
    assert folder.is_dir() and scratch_folder("stage", seed=1) == folder
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"warning: {folder.parent} cannot be locked (No locks available): see to it")
