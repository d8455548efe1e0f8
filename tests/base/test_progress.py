"""The bar of a long loop: on a terminal only."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from uld.base import progress

PROGRAM = """
from uld.base import progress
with progress.bar("round one", 10, 3) as advance:
    print("a line", flush=True)
    advance(6)
    with progress.bar("inner", 10) as inner:
        inner(1)
"""


def test_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("round one", 10) as advance:
        advance(4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_bar_and_the_lines_on_a_terminal(rank: str) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", "RANK": rank}
    subprocess.run([sys.executable, "-c", PROGRAM], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "a line" in seen and "inner" not in seen
    assert ("round one" in seen and "9/10" in seen) == (rank == "0")


def test_batches_are_those_of_the_run_time_and_leave_no_bar_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_BATCH", "2")
    rows = np.array([5, 6, 8], dtype=np.int64)
    assert [batch.tolist() for batch in progress.batches("images", rows)] == [[5, 6], [8]]
    with pytest.raises(KeyError), progress.bar("images", 3):
        raise KeyError
    assert not progress._bars
