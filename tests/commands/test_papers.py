"""Pages of papers say what the presets set: each value in their tables is compared."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from uld.base import params
from uld.commands import presets
from uld.commands.rounds import length

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^\|.*\| `([^`]+)` \| `([^`]*)` \|$", re.M)
ROUNDS = "rounds of "


def lines(page: str) -> list[tuple[str, str]]:
    """Param and value of each line of the page's tables."""
    return LINE.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "preset"),
    [
        ("docs/papers/d-uld.md", "paper"),
        ("docs/papers/mallis.md", "mallis-ch6"),
        ("docs/papers/mallis-ch5.md", "mallis-ch5"),
        ("docs/papers/mallis-ch4.md", "mallis-ch4"),
    ],
)
def test_a_page_says_what_its_preset_sets(page: str, preset: str, project: Path, uld) -> None:
    shutil.copy(ROOT / "studies/ablation/params.yaml", project / "params.yaml")
    assert uld("preset", preset, "--write").exit_code == 0
    tree = params.load(project / "params.yaml")
    for key, text in lines(page):
        found = length(tree, key.removeprefix(ROUNDS)) if key.startswith(ROUNDS) else params.find(tree, key)
        assert found == YAML(typ="safe").load(text), key


def test_a_page_leaves_out_nothing_that_its_preset_sets_for_the_methods() -> None:
    """Each block of the preset is spoken of, if not each number in it."""
    spoken = {".".join(key.split(".")[:3]) for key, _ in lines("docs/papers/d-uld.md")}
    preset = presets.load("paper")
    parts = {".".join(key.split(".")[:3]) for key in preset.changes}
    wanted = {re.sub(r"[][*]", "", key) for key in parts}
    blocks = {key for key in wanted if key.startswith("methods.") and "full_vae" not in key}
    assert blocks - spoken == {"methods.pose_proxy.cluster"}
    assert set(preset.rounds) - {"duld_pp_full_vae"} == {
        key.removeprefix(ROUNDS) for key, _ in lines("docs/papers/d-uld.md") if key.startswith(ROUNDS)
    }


def test_a_wrong_value_would_be_seen() -> None:
    assert len(lines("docs/papers/d-uld.md")) > 50
    assert LINE.findall("| a | b | `x.y` | `{a: null}` |\n| a | b | x | `1` |") == [("x.y", "{a: null}")]
