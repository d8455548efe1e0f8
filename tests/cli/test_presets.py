import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uld import blocks, edit, params, presets
from uld.errors import DataError, ParamsError
from uld.presets import hydra

NAMES = presets.names()


def load(name: str) -> presets.Preset:
    return presets.load(name, Path() if name == "folder" else None)


def test_an_unchanged_file_is_written_byte_for_byte(project) -> None:
    path = project / "params.yaml"
    before = path.read_bytes()
    edit.save(path, edit.load(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_can_read_the_params_after_a_preset(project, name: str) -> None:
    path = project / "params.yaml"
    tree, _ = presets.apply(load(name), path)
    edit.save(path, tree)
    assert blocks.problems(path) == []


@pytest.mark.parametrize("name", NAMES)
def test_comments_and_order_stay(project, name: str) -> None:
    def notes(text: str) -> list[str]:
        return [line.split("#", 1)[1] for line in text.splitlines() if "#" in line]

    path = project / "params.yaml"
    before = path.read_text()
    tree, changes = presets.apply(load(name), path)
    edit.save(path, tree)
    after = path.read_text()
    assert notes(after) == notes(before)
    assert [line.split(":")[0] for line in after.splitlines()] == [line.split(":")[0] for line in before.splitlines()]
    altered = sum(a != b for a, b in zip(before.splitlines(), after.splitlines(), strict=True))
    assert altered <= len(changes)


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_experiment_does_what_write_does(project, name: str) -> None:
    # DVC's own reader of -S; it dissolves the merge `<<: *frozen`, so blocks that follow must be named one by one
    from dvc.utils.hydra import apply_overrides

    tree, changes = presets.apply(load(name), Path("params.yaml"))
    words = [word for change in changes for word in shlex.split(presets.override(change))]
    shutil.copy("params.yaml", "other.yaml")
    if words:
        apply_overrides("other.yaml", words)
    assert params.load(Path("other.yaml")) == edit.plain(tree)


def test_the_way_back(project) -> None:
    path = project / "params.yaml"
    before = params.load(path)
    for name in ("sd15-hyperfeatures", "orl"):
        tree, _ = presets.apply(load(name), path)
        edit.save(path, tree)
    after = params.load(path)
    assert blocks.problems(path) == []
    assert after == before


def test_folder_takes_the_users_path(project, uld) -> None:
    (project / "my cats").mkdir()
    shown = uld("preset", "folder", "--images", "my cats", "--write")
    assert shown.exit_code == 0
    tree = params.load(project / "params.yaml")
    assert (tree["dataset"], tree["source"], tree["roi"]["providers"]) == ("folder", "my cats", ["full"])


def test_showing_changes_nothing(project, uld) -> None:
    before = (project / "params.yaml").read_bytes()
    shown = uld("preset", "sd15").output
    assert "backbone" in shown
    assert "tiny -> sd15" in shown
    assert "dvc exp run" in shown
    assert (project / "params.yaml").read_bytes() == before


def test_without_a_name_all_are_listed_with_their_purpose(uld) -> None:
    shown = uld("preset").output
    assert all(name in shown and presets.about(name) in shown for name in NAMES)


def test_wrong_use_is_told(project, uld) -> None:
    for words, hint in [
        (("nope",), "choose one of"),
        (("folder",), "needs --images"),
        (("orl", "--images", "."), "takes no --images"),
        (("folder", "--images", "nowhere"), "is no folder"),
    ]:
        done = uld("preset", *words)
        assert done.exit_code == 2
        assert hint in done.output


def test_a_key_that_is_not_there_is_named_and_nothing_is_written(project) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("  crop: 64 ", "  size: 64 "))
    before = path.read_bytes()
    with pytest.raises(ParamsError, match=r"roi\.crop"):
        presets.apply(load("sd15"), path)
    assert path.read_bytes() == before


def test_the_folder_must_exist() -> None:
    with pytest.raises(DataError, match="nowhere"):
        presets.load("folder", Path("nowhere"))


texts = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9999) | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_any_value_survives_the_grammar_of_overrides(value) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([f"key={hydra(value)}"])
    assert parsed.value() == value
