"""Which files a script runs, on a small package."""

from pathlib import Path

import pytest

from uld.base.errors import ParamsError
from uld.base.imports import Code

FILES = {
    "stages/one.py": "from uld import a\nimport numpy as np\n",
    "stages/two.py": "import uld.room\n",
    "stages/three.py": "def late():\n    from uld.room.b import B\n",
    "stages/four.py": "if TYPE_CHECKING:\n    import uld.a\nelse:\n    import uld.d\n",
    "stages/five.py": "from uld.page import show\n",
    "stages/six.py": "from uld.room import near\n",
    "uld/__init__.py": "",
    "uld/a.py": "from uld.c import value, other\n",
    "uld/c.py": "import uld.a  # a ring\n",
    "uld/room/__init__.py": "TABLE = {'b': 'uld.room.b:B', 'text': 'uld.a is no class'}\n",
    "uld/room/b.py": "from uld import d\n",
    "uld/room/near.py": "from . import b\nfrom ..c import value\n",
    "uld/d.py": "",
    "uld/page.py": "NAMES = ['page.html', 'none.html', 'd.py']\n",
    "uld/page.html": "",
}
ROOM = ["uld/room/__init__.py", "uld/room/b.py"]
CLOSURES = {
    "one": ["uld/__init__.py", "uld/a.py", "uld/c.py"],
    "two": ["uld/__init__.py", "uld/room/__init__.py"],  # it ends at the table
    "three": ["uld/__init__.py", "uld/d.py", *ROOM],  # what is imported late counts
    "four": ["uld/__init__.py", "uld/d.py"],  # what a type checker reads does not
    "five": ["uld/__init__.py", "uld/page.html", "uld/page.py"],
    "six": ["uld/__init__.py", "uld/a.py", "uld/c.py", "uld/d.py", *ROOM, "uld/room/near.py"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", CLOSURES)
def test_closures(tree: Path, name: str) -> None:
    assert Code(tree).closure([f"stages/{name}.py"]) == [f"stages/{name}.py", *CLOSURES[name]]


def test_an_entry_joins_what_opens_it(tree: Path) -> None:
    code = Code(tree)
    opened = code.entry("room", "b")
    assert opened == "uld/room/b.py"
    assert code.closure(["stages/two.py", opened]) == ["stages/two.py", "uld/__init__.py", "uld/d.py", *ROOM]


def test_what_no_table_has(tree: Path) -> None:
    with pytest.raises(ParamsError, match="uld/room has no 'c': choose one of b"):
        Code(tree).entry("room", "c")
    (tree / "uld/room/__init__.py").write_text("from uld.room import b\n")
    assert Code(tree).entry("room", "b") is None  # it imports all that it has
