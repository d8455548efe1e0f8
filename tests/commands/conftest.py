"""A project folder to run commands in: the shipped params.yaml, and metrics made up by the tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from uld.commands.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of params.yaml."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def uld() -> Callable[..., Result]:
    """Runs the command: `uld("table", "--all")`."""
    return lambda *words: CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
