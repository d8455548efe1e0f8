"""Ctrl-C while the libraries are being imported: one line and exit code 130, whatever the moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uld.base import early

COMMANDS = {"uld": ["-m", "uld", "predict", "nothing", "nothing.png"], "stage": ["-m", "uld.stage", "predict", "duld"]}
SECONDS = 1.5  # into the imports of torch and pandas
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux which signals are caught")


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    """A process that has come as far as to its own first lines: before them it is the interpreter that starts."""
    env = os.environ | {"PYTHONPATH": str(Path(early.__file__).parents[2])}
    process = subprocess.Popen([sys.executable, *command], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    while not caught(process.pid, signal.SIGTERM) and process.poll() is None:
        time.sleep(0.001)
    return process


def caught(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_at_any_moment_is_one_line(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    moments = random.Random(name)
    for _ in range((request.config.getoption("--moments") or 12) // 2):
        delay, number = moments.uniform(0, SECONDS), moments.choice([signal.SIGINT, signal.SIGTERM])
        process = start(tmp_path, COMMANDS[name])
        time.sleep(delay)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said, (delay, number)
        if not said.startswith("error: "):  # it may have come to what is wrong with its arguments, and be ending
            assert (process.returncode, said) == (early.EXIT_INTERRUPTED, f"{early.SAID}\n"), (delay, number)


def test_what_was_started_to_ignore_ctrl_c_ignores_it(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from uld.base import early; early.prepare()"
    ask = "; print(signal.getsignal(signal.SIGINT).name, signal.getsignal(signal.SIGTERM).__name__)"
    done = subprocess.run([sys.executable, "-c", code + ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SIG_IGN", "_handle"]


def test_work_can_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with early.working(), pytest.raises(KeyboardInterrupt):
        early._handle(signal.SIGINT, sys._getframe())
