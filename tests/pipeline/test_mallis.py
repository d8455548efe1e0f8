"""Preset `mallis-ch6` from end to end: an hourglass on images, its rounds and its second stage, no diffusion model."""

import json
import math

import pytest
from safetensors.torch import load_file

from smoke.process import ROOT
from smoke.project import Project, ran
from uld.artifacts.labels import read_labels
from uld.base import params

pytestmark = pytest.mark.paper

ROUNDS = 4  # of 34
ROWS = ["mean_shape", "position", "warm_up", "stage_1", "mallis"]


@pytest.fixture(scope="module")
def chapter(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke project with the preset, as `dvc repro` leaves it; stages run in this process. Read only."""
    project = Project.export(tmp_path_factory.mktemp("mallis") / "project")
    assert "rounds of mallis_d: 34" in project.uld("preset", "mallis-ch6", "--write")
    project.uld("rounds", "mallis_d", str(ROUNDS))
    project.set(**params.load(ROOT / "tests/smoke/mallis.yaml"))
    project.stages(*project.order())
    project.dvc("commit", "--force")
    return project


def test_dvc_repro_runs_all_of_it_and_nothing_twice(chapter: Project) -> None:
    assert sorted(ran(chapter.dvc("repro", "--dry", "--force"))) == sorted(chapter.order())
    assert "up to date" in chapter.dvc("repro", "--dry")


def test_there_is_no_diffusion_model(chapter: Project) -> None:
    assert json.loads((chapter.root / "artifacts/backbone/reference.json").read_text()) == {}
    assert not (chapter.root / "artifacts/features").exists()


def test_rounds_teach_m_clusters_and_the_second_stage_k(chapter: Project) -> None:
    for number in range(1, ROUNDS + 1):
        assert read_labels(chapter.root / f"artifacts/labels/mallis_d-{number}/labels.h5").count == 8
    assert read_labels(chapter.root / "artifacts/labels/mallis_d_detector-1/labels.h5").count == 4
    about = params.load(chapter.root / "artifacts/rounds/mallis_d_detector-1/model.json")
    assert about["model"] == "hourglass" and about["args"]["channels"] == 4


def test_the_optimiser_goes_on_from_round_to_round(chapter: Project) -> None:
    steps = []
    for name in ("hourglass", "mallis_d-1", f"mallis_d-{ROUNDS}"):
        moments = load_file(chapter.root / f"artifacts/rounds/{name}/moments.safetensors")
        steps.append({value.item() for key, value in moments.items() if key.endswith(".step")})
    assert steps == [{150}, {152}, {150 + 2 * ROUNDS}]


def test_every_row_is_scored(chapter: Project) -> None:
    assert list(params.load(chapter.root / "params.yaml")["rows"]) == ROWS
    for row in ROWS:
        tree = chapter.metrics(row)
        scored = tree["canonical"]["points"]["dense"]["all"]
        assert math.isfinite(scored["forward_nme"]), row
    page = (chapter.root / "report/index.html").read_text()
    assert all(row in page for row in ROWS)
