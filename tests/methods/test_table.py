"""The table of methods, and what all of its files have in common: an order of sections, and no copied lines."""

import ast
import itertools
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

import uld.methods
from uld.base.errors import ParamsError
from uld.methods import METHODS, load
from uld.methods.base import Method

FOLDER = Path(uld.methods.__file__).parent
NOT_METHODS = {"__init__", "base", "lines"}
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in NOT_METHODS)
CONTRACT = ["discover", "label", "train", "find", "match"]  # in the order of every file
SECTIONS = ["discover", "label", "train", "find"]
RUN = 6  # equal lines in a row that are too many


def test_unknown_name_lists_the_choices() -> None:
    for line in ("zero_shot", "zero_shot-duld"):
        with pytest.raises(ParamsError, match=f"'zero_shot': choose one of {', '.join(METHODS)}, and for more lines"):
            load(line)


def test_a_method_has_many_lines() -> None:
    assert load("duld-paper") is load("duld-4-points") is load("duld") and not any("-" in name for name in METHODS)


def test_the_table_is_a_literal() -> None:
    """What the code lists read without running anything; each file has a line, and each line a file."""
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    tables = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "METHODS"]
    assert len(tables) == 1 and ast.literal_eval(tables[0].value) == METHODS
    modules = {place.split(":")[0] for place in METHODS.values()}
    assert modules == {f"uld.methods.{path.stem}" for path in FILES}
    assert load("duld_pp_full_vae") is load("duld_pp")  # one method, two blocks of params


@pytest.mark.parametrize("name", METHODS)
def test_a_method_derives_from_the_contract_alone(name: str) -> None:
    """None is a variant of another one: what a class does stands in its file."""
    kind = load(name)
    assert kind.__bases__ == (Method,) and not kind.__subclasses__()
    assert issubclass(kind, Method) and not kind.__abstractmethods__
    own = [one for one in vars(kind) if one in CONTRACT]
    assert own == [one for one in CONTRACT if one in own]


@pytest.mark.parametrize("name", METHODS)
def test_both_blocks_are_closed(name: str) -> None:
    kind = load(name)
    trains = [] if kind.Train is None else list(get_args(kind.Train)) or [kind.Train]
    assert ("train" in vars(kind)) == bool(trains)
    for block in [kind.Cluster, *trains]:
        params: Any = block
        assert is_dataclass(params) and params.__dataclass_params__.frozen
        assert params.__pydantic_config__["extra"] == "forbid"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sections_stand_in_one_order(path: Path) -> None:
    """So that a diff of two files shows what separates two papers."""
    found = re.findall(r"^    # --- (.*) ---$|^    def ([a-z]+)\(", path.read_text(), re.M)
    titles = [title for title, _ in found if title]
    assert titles == [one for one in SECTIONS if one in titles] and {"discover", "find"} <= set(titles)
    section = ""
    for title, function in found:
        section = title or section
        if function in SECTIONS:
            assert function == section, f"{path.name} has {function} below the title of {section}"
    first = [function for _, function in found if function in CONTRACT and function not in ("__init__", "match")]
    assert first == titles


def _lines(path: Path) -> list[str]:
    """Lines without imports, the contract's signatures and titles."""
    signature = re.compile(rf"(from|import) |@staticmethod|# --- |def ({'|'.join(CONTRACT)})\(")
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not signature.match(line)]


def runs(a: list[str], b: list[str], length: int) -> list[list[str]]:
    """Runs of so many lines that stand in both."""
    known = {tuple(b[j : j + length]) for j in range(len(b) - length + 1)}
    starts = range(len(a) - length + 1)
    return [a[i : i + length] for i in starts if tuple(a[i : i + length]) in known]


@pytest.mark.parametrize(("one", "other"), itertools.combinations(FILES, 2), ids=lambda path: path.stem)
def test_no_lines_are_copied(one: Path, other: Path) -> None:
    found = runs(_lines(one), _lines(other), RUN)
    assert not found, f"{one.name} and {other.name} have {RUN} lines in common:\n" + "\n".join(found[0])


def test_runs_are_seen() -> None:
    assert runs(list("abcdefg"), list("xbcdefy"), 5) == [list("bcdef")]
    assert not runs(list("abcdefg"), list("xbcdzfy"), 5)
