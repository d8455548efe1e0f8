import subprocess
import sys

import pytest


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from uld.commands.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(sorted({'torch', 'pandas', 'numpy', 'cv2', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["predict", "table", "preset", "rounds", "points", "doctor"])
def test_each_command_explains_itself_with_an_example(uld, command: str) -> None:
    shown = uld(command, "--help").output
    assert f"uld {command}" in shown.replace("Usage: uld", "")


def test_a_wrong_option_is_one_clear_message(uld) -> None:
    done = uld("table", "--points", "sparse")
    assert done.exit_code == 2
    assert "dense" in done.output
