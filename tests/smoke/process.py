"""Scripts of the project in this process, which has all imports already, as if each had one of its own."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from uld.base import scratch

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]

# the other way about: a process of its own for stages one after the other, which takes longer to start than they do
SEVERAL = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = name.split("@")
    runpy.run_module(f"stages.{sys.argv[0]}", run_name="__main__")
"""


def stage(folder: Path, name: str, *words: str) -> Done:
    """What `python -m stages.<name> <words>` does in a project's folder: its exit code and what it said."""
    said, told, code = io.StringIO(), io.StringIO(), 0
    with as_a_process(folder, f"stages/{name}.py", *words), contextlib.ExitStack() as caught:
        caught.enter_context(contextlib.redirect_stdout(said))
        caught.enter_context(contextlib.redirect_stderr(told))
        try:
            runpy.run_path(str(ROOT / f"stages/{name}.py"), run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done([name, *words], code, said.getvalue(), told.getvalue())


@contextlib.contextmanager
def as_a_process(folder: Path, *command: str) -> Iterator[None]:
    """Let this process stand in a folder, with a command line and a scratch folder of it, whose locks end with it."""
    locked = set(scratch._locks)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", list(command))
        patch.setenv("ULD_SCRATCH", str(folder / ".scratch"))
        try:
            yield
        finally:
            for taken in set(scratch._locks) - locked:
                os.close(scratch._locks.pop(taken))
