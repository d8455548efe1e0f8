"""Every benchmark runs at its tiny size, checks its own results and prints a ratio; nothing is timed here."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark
FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_small(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    importlib.import_module(name).main(small=True)
    assert " x against " in capsys.readouterr().out


def test_a_wrong_result_stops_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    timing = importlib.import_module("timing")
    with pytest.raises(AssertionError, match="topic"):
        timing.same("topic", [1.0, 2.0], [1.0, 2.5])
