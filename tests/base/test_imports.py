"""Which files a script runs, on a small package."""

from pathlib import Path

import pytest

from uld.base.imports import closure

FILES = {
    "stages/one.py": "from uld import a\nimport numpy as np\n",
    "stages/two.py": "import uld.room.table\n",
    "stages/three.py": "def late():\n    from uld.room.b import B\n",
    "uld/__init__.py": "",
    "uld/a.py": "from uld.c import value, other\n",
    "uld/c.py": "import uld.a  # a ring\n",
    "uld/room/__init__.py": "",
    "uld/room/table.py": "TABLE = {'b': 'uld.room.b:B', 'text': 'uld.a is no class', 'gone': 'uld.room.gone:G'}\n",
    "uld/room/b.py": "from uld import d\n",
    "uld/d.py": "",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_of_imports(tree: Path) -> None:
    assert closure(tree / "stages/one.py") == ["uld/__init__.py", "uld/a.py", "uld/c.py"]


def test_of_what_is_opened_by_name_only_the_imports_count(tree: Path) -> None:
    want = ["uld/__init__.py", "uld/d.py", "uld/room/__init__.py", "uld/room/table.py"]
    assert closure(tree / "stages/two.py") == want


def test_what_is_imported_late_counts(tree: Path) -> None:
    want = ["uld/__init__.py", "uld/d.py", "uld/room/__init__.py", "uld/room/b.py"]
    assert closure(tree / "stages/three.py") == want


def test_a_file_that_one_opens_by_name_and_another_imports_counts(tree: Path) -> None:
    (tree / "uld/d.py").write_text("import uld.room.b\n")
    assert "uld/room/b.py" in closure(tree / "stages/two.py")


def test_every_room_of_this_project() -> None:
    root = Path(__file__).parents[2]
    found = {path.stem: set(closure(path)) for path in (root / "stages").glob("*.py")}
    assert "uld/diffusion/training.py" in found["backbone"] and "uld/cluster/two_stage.py" in found["cluster"]
    assert "uld/methods/duld.py" not in found["cluster"] and "uld/training/self_training.py" in found["cluster"]
    assert "uld/commands/cli.py" not in set().union(*found.values())
