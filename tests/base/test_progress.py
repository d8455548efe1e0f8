"""The bar of a long loop: on a terminal only."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from uld.base import progress

PROGRAM = """
from uld.base import progress
with progress.bar("round one", 10, 3) as told:
    print("a line", flush=True)
    told(9)
"""


def test_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("round one", 10) as told:
        told(4)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_bar_and_the_lines_on_a_terminal(rank: str) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", "RANK": rank}
    subprocess.run([sys.executable, "-c", PROGRAM], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "a line" in seen
    assert ("round one" in seen and "9/10" in seen) == (rank == "0")
