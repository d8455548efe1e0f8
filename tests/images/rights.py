"""Rights bite in tests too: root may read everything, so what is tested runs as a user who may not."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65_534


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """The block runs as a user without any rights, if the tests run as root; else as who they run as."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that everyone may enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
