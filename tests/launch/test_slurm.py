"""Experiments as jobs, on this machine: a small DVC project whose stage is preempted in the middle."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from submitit import AutoExecutor
from typer.testing import CliRunner

from launch import slurm
from launch.slurm import Experiment, app, sweeps
from uld.base import ranks

STAGE = """
import json, os, signal, time
from pathlib import Path
import psutil
scratch = Path(".scratch")
scratch.mkdir(exist_ok=True)
state = scratch / "starts"
starts = int(state.read_text()) + 1 if state.exists() else 1
state.write_text(str(starts))
seed = int(Path("params.yaml").read_text().split("seed:")[1])
if seed == 1 and starts == 1:  # as SLURM does when another job needs the place
    for parent in psutil.Process().parents():
        if "submitit.core._submit" in parent.cmdline():
            os.kill(parent.pid, signal.SIGUSR2)
            break
    time.sleep(300)
if seed == 2:
    raise SystemExit("a stage that fails")
data = int(Path("data/raw/number").read_text())
processes = int(os.environ["ULD_NPROC"])
Path("metrics.json").write_text(json.dumps({"seed": seed, "data": data, "starts": starts, "processes": processes}))
"""
GRAPH = """
stages:
  slow:
    cmd: python stage.py
    deps: [stage.py, data/raw/number]
    params: [seed]
    metrics: [metrics.json: {cache: false}]
"""


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project under Git and DVC. Read only."""
    root = tmp_path_factory.mktemp("launch") / "repo"
    (root / "data/raw").mkdir(parents=True)
    for name, text in {
        "stage.py": STAGE,
        "dvc.yaml": GRAPH,
        "params.yaml": "seed: 0\n",
        "data/raw/number": "7",
        ".gitignore": "/data/raw/\n/build/\n.scratch/\n",
    }.items():
        (root / name).write_text(text)
    with contextlib.chdir(root):
        run("git", "init", "--quiet")
        run("git", "config", "user.name", "smoke")
        run("git", "config", "user.email", "smoke@example.org")
        run(sys.executable, "-m", "dvc", "init", "--quiet")
        run("git", "add", ".")
        run("git", "commit", "--quiet", "--message", "first")
    return root


@pytest.fixture
def repo(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    monkeypatch.chdir(shutil.copytree(committed, tmp_path / "repo"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where jobs find this class
    return tmp_path / "repo"


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kept() -> dict[int, dict[str, int]]:
    """Metrics of the experiments that the clone has, by seed."""
    shown = json.loads(run(sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "show", "--json", "--all-commits"))
    found = [rev["data"]["metrics"] for one in shown for exp in one["experiments"] or [] for rev in exp["revs"]]
    metrics = [tree["metrics.json"]["data"] for tree in found]
    return {tree["seed"]: tree for tree in metrics}


def job_of(repo: Path, *settings: str) -> object:
    executor = AutoExecutor(repo / "build/launch/logs/%j", "local")
    executor.update_parameters(timeout_min=30)
    return executor.submit(Experiment(repo, run("git", "rev-parse", "HEAD").strip(), settings))


def test_a_preempted_job_goes_on_and_leaves_an_experiment(repo: Path) -> None:
    said = run(sys.executable, "-m", "launch.slurm", "--local", "--gpus", "2", "-S", "seed=1,3").splitlines()
    commit = run("git", "rev-parse", "HEAD")[:8]
    folders = [f"build/launch/{commit}-seed={seed}" for seed in (1, 3)]
    assert len(said) == 2 and all(folder in line for folder, line in zip(folders, said, strict=True))
    until = time.monotonic() + 300
    while len(run("git", "for-each-ref", "refs/exps/*/*/*").splitlines()) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    always = {"data": 7, "processes": 2}
    assert kept() == {1: {"seed": 1, "starts": 2} | always, 3: {"seed": 3, "starts": 1} | always}
    assert run("git", "status", "--porcelain") == ""
    assert not any((repo / folder / ".dvc/cache").exists() for folder in folders)


def test_a_failed_experiment_says_where(repo: Path) -> None:
    job = job_of(repo, "seed=2")
    error = job.exception()  # type: ignore[attr-defined]
    assert "exp run --set-param seed=2 ended with" in str(error) and "build/launch" in str(error)
    assert "a stage that fails" in job.stderr() and kept() == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("gpus", "wanted", "processes"), [(0, None, 1), (1, None, 1), (4, None, 4), (4, "2", 2)])
def test_a_process_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, wanted: str | None, processes: int
) -> None:
    monkeypatch.delenv("ULD_NPROC", raising=False)
    if wanted:
        monkeypatch.setenv("ULD_NPROC", wanted)
    Experiment(tmp_path, "", (), gpus=gpus)._run(["sh", "-c", "echo $ULD_NPROC > count"], tmp_path)
    assert int((tmp_path / "count").read_text()) == processes


@pytest.mark.parametrize(("traps", "seconds", "code"), [("exit 7", 120, 7), ("", 0.5, -signal.SIGKILL)])
def test_what_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traps: str, seconds: float, code: int
) -> None:
    """Also of a launcher that ignores Ctrl-C."""
    monkeypatch.setattr(slurm, "SAVING", seconds)
    command = ["sh", "-c", f"trap '{traps}' INT; echo ready; while true; do sleep 0.1; done"]
    job = Experiment(tmp_path, "", ())
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, preexec_fn=slurm.heed)
    finally:
        signal.signal(signal.SIGINT, heeded)
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        job._process = process
        assert job.checkpoint().function is job
        assert process.wait() == code
    job._process = process  # which has ended by itself
    assert job.checkpoint().function is job


def test_time_is_left_to_submit_again() -> None:
    assert ranks.SAVING < slurm.SAVING < slurm.GRACE - 60


def test_every_combination_is_a_job() -> None:
    assert sweeps(["seed=range(0,2)", "landmarks=10,20"]) == [
        ("seed=0", "landmarks=10"), ("seed=0", "landmarks=20"), ("seed=1", "landmarks=10"), ("seed=1", "landmarks=20"),
    ]  # fmt: skip
    assert sweeps([]) == [()]


def test_folders_are_told_apart_by_commit_and_settings(tmp_path: Path) -> None:
    folders = [
        Experiment(tmp_path, commit, settings).folder.name
        for commit in ("0123456789", "9876543210")
        for settings in ((), ("seed=1",), ("seed=1", "rounds.x={start: silk, step: duld}"))
    ]
    assert len(set(folders)) == 6 and folders[:2] == ["01234567-as-committed", "01234567-seed=1"]
    assert all("/" not in name and " " not in name for name in folders)


@pytest.mark.parametrize(
    ("place", "said"), [(".", "--local runs on this machine"), ("data", "submit from the repository's root")]
)
def test_what_a_user_can_get_wrong(repo: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str) -> None:
    monkeypatch.chdir(repo / place)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent) + os.pathsep + "/usr/bin")
    done = CliRunner().invoke(app, ["-S", "seed=1"])
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
