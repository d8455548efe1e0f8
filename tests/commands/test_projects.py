import json
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from uld.base import params
from uld.base.errors import ParamsError
from uld.commands import blocks, experiments, kept, projects, table

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent for path in ROOT.glob("studies/*/params.yaml"))
PARAMS = "dataset: faces3d\nsource: {}\nrows: {{a: {{}}}}\nevaluate: {{protocols: [canonical]}}\n"


def copies() -> list[tuple[Path, Path]]:
    """Each file that stands twice, and its original."""
    mine = ROOT / "uld/commands/project"
    found = [(path, ROOT / "dvc.yaml") for path in (mine / "graph.yaml", *(study / "dvc.yaml" for study in STUDIES))]
    found += [(mine / "params.yaml", ROOT / "params.yaml"), (mine / "config", ROOT / ".dvc/config")]
    found += [(mine / "dvcignore", ROOT / ".dvcignore")]
    return found + [(mine / "plots" / path.name, path) for path in sorted((ROOT / ".dvc/plots").glob("*.json"))]


@pytest.mark.parametrize(("copy", "original"), copies(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_copy_is_what_the_root_has(copy: Path, original: Path) -> None:
    assert copy.read_bytes() == original.read_bytes(), "run `make copies`"


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_study_is_sound(study: Path, monkeypatch) -> None:
    assert blocks.problems(study / "params.yaml") == []
    tree = params.load(study / "params.yaml")
    assert (tree["code"], tree["source"][:6]) == ("../..", "../../")
    monkeypatch.chdir(study)
    results = experiments.results(table.Choice(), kept.read(projects.SEEDS))
    (seeds,) = set(results.lines["seeds"])  # of every row alike
    assert set(tree["rows"]) <= set(results.lines["row"]) and seeds >= 2
    about = (study / "README.md").read_text()
    assert f"make study NAME={study.name}" in about and "uld table" in about


PRESETS = sorted((ROOT / "uld/commands/presets").glob("*.yaml"))


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *(study / "params.yaml" for study in STUDIES), *PRESETS])
def test_every_override_reaches_its_key(path: Path) -> None:
    """DVC changes a block that stands in two places in both or in none."""
    assert blocks.shared(params.load(path)) == []


def test_an_override_of_a_shared_block_changes_both_or_neither(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for text, alike, told in (
        ("a: &a {b: {c: 1}}\nd:\n  <<: *a\n  e: 2\n", True, [("a.b", "d.b")]),
        ("a: {b: &b {c: 1}}\nd: {b: *b}\n", True, [("a.b", "d.b")]),
        ("a: &a {b: {c: 1}}\nd: *a\n", True, [("a", "d")]),
        ("a: {b: &b {c: 1}}\nd: {b: {<<: *b}}\n", False, []),
        ("a: {b: {c: 1}}\nd: {b: {c: 1}}\n", False, []),
    ):
        path.write_text(text)
        assert blocks.shared(params.load(path)) == told
        apply_overrides(path, ["a.b.c=5"])
        after = params.load(path)
        assert after["d"]["b"]["c"] == 1 and (after["a"]["b"]["c"] == 1) == alike
        path.write_text(text)
        apply_overrides(path, ["d.b.c=5"])
        after = params.load(path)
        assert after["d"]["b"]["c"] == 5 and (after["a"]["b"]["c"] == 5) == alike


@pytest.fixture
def clone(tmp_path: Path, monkeypatch) -> Path:
    """A root and two studies; only the root has been run, only `x` has data."""
    for name in ("uld/stage.py", "stages/data.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name, source in ((".", "there"), ("studies/x", "../../there"), ("studies/y", "../../raw/faces")):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "dvc.yaml").touch()
        (tmp_path / name / "params.yaml").write_text(PARAMS.format(source))
    (tmp_path / "there").mkdir()
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/a.json").write_text(json.dumps({"landmarks": 10, "stability": 1.25}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_project_is_shown_from_elsewhere(clone, uld) -> None:
    shutil.copytree(clone / "metrics", clone / "studies/x/metrics")
    (clone / "studies/x/metrics/a.json").write_text(json.dumps({"landmarks": 7, "stability": 2.5}))
    assert "1.25" in uld("table").output
    assert "2.50" in uld("table", "--project", "studies/x").output
    shown = uld("table", "--project", "studies/z")
    assert shown.exit_code == 2 and "Projects: ., studies/x, studies/y." in shown.output


def test_all_projects_at_once(clone, uld, monkeypatch) -> None:
    kept.write(clone / "studies/x/seeds.csv", [experiments.Run("c", {"seed": "3"}, {"a": {"landmarks": 8}})])
    shown = uld("table", "--all")
    assert shown.exit_code == 0
    assert ".: no annotations were scored" in shown.output
    assert "studies/x: no annotations" in shown.output and "over seeds" in shown.output
    assert "studies/y: metrics/ has no metrics" in shown.output
    assert "**studies/x**" in uld("table", "--all", "--format", "md").output
    monkeypatch.chdir(clone / "studies/y")
    assert [path.name for path in projects.every(Path.cwd())] == [clone.name, "x", "y"]


def test_what_makes_the_figures_is_told(clone, uld) -> None:
    (clone / "metrics/a.json").unlink()
    assert f"Run `dvc repro` in {clone}." in uld("table").output
    said = uld("table", "--project", "studies/y").output
    assert "run `uld faces3d ../../raw/faces --count 1000` in" in said and "make study NAME=y" in said
    path = clone / "studies/y/params.yaml"
    path.write_text(path.read_text().replace("faces3d", "folder"))
    assert "../../raw/faces is not there" in uld("table", "--project", "studies/y").output
    (clone / "studies/x/seeds.csv").touch()
    assert "`uld table --kept seeds.csv`" in uld("table", "--project", "studies/x").output


def test_params_of_the_first_version_are_refused_with_the_new_names(project, uld, monkeypatch) -> None:
    """By every command in the same words; the names are made up here, so that the test outlives them."""
    monkeypatch.setattr(params, "RENAMED", {"layout": "evaluate", "colours": "report"})
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("\nevaluate:", "\nlayout:").replace("\nreport:", "\ncolours:"))
    (project / "dvc.yaml").touch()
    with pytest.raises(ParamsError, match="layout is evaluate now, colours is report now") as caught:
        blocks.problems(path)
    said = str(caught.value)
    assert said.replace(str(path), "params.yaml") in uld("table", "ablation").output.replace(str(path), "params.yaml")
