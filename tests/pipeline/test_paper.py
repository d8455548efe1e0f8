"""Preset `paper` from end to end: its rounds, optimisers, heads and protocols, on a small random Stable Diffusion."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from smoke.process import ROOT
from smoke.project import Project, ran
from uld.artifacts.labels import read_labels
from uld.base import params

pytestmark = pytest.mark.paper

ROUNDS = {"duld": 20, "pose_proxy": 10, "duld_pp": 20}
ROWS = ["mean_shape", "zeroshot", "duld", "duld_pp", "pixels"]
BOOTSTRAP, STEPS = 80, 2


def stable_diffusion(folder: Path) -> None:
    """A folder as that of Stable Diffusion 1.5: up blocks of three layers each, but 8 channels wide, for 16 px."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=2,
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=8,
        )
        unet.save_pretrained(folder / "unet")
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )
        vae.save_pretrained(folder / "vae")
        save_file({"prompt": torch.randn(77, 8).half()}, folder / "empty_prompt.safetensors")
    kind = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    PNDMScheduler(**kind, skip_prk_steps=True, set_alpha_to_one=False).save_pretrained(folder / "scheduler")


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke project with the preset, as `dvc repro` leaves it; stages run in this process. Read only."""
    project = Project.export(tmp_path_factory.mktemp("paper") / "project")
    assert "rounds of duld: 20" in project.uld("preset", "paper", "--write")
    project.set(**params.load(ROOT / "tests/smoke/paper.yaml"))
    stable_diffusion(project.root / "weights/stable-diffusion-v1-5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULD_BATCH", "64")  # of so small a network a call costs the same for one image and for many
        project.stages(*project.order())
    project.dvc("commit", "--force")
    return project


def test_dvc_repro_runs_all_of_it_and_nothing_twice(paper: Project) -> None:
    assert sorted(ran(paper.dvc("repro", "--dry", "--force"))) == sorted(paper.order())
    assert "up to date" in paper.dvc("repro", "--dry")


def chain(method: str) -> list[str]:
    """The rounds of a method, in their order."""
    return [f"{method}-{number}" for number in range(1, ROUNDS[method] + 1)]


def weights(project: Project, name: str, part: str = "") -> dict[str, torch.Tensor]:
    found = load_file(project.root / f"artifacts/rounds/{name}/model.safetensors")
    return {key: value for key, value in found.items() if key.startswith(part)}


def taken(project: Project, name: str) -> set[float]:
    """Steps that the moments of a start or a round have seen."""
    moments = load_file(project.root / f"artifacts/rounds/{name}/moments.safetensors")
    return {value.item() for key, value in moments.items() if key.endswith(".step")}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


def test_the_aggregator_reads_all_maps_and_a_head_describes(paper: Project) -> None:
    about: Any = params.load(paper.root / "artifacts/rounds/duld_pp-20/model.json")["args"]
    assert len(about["aggregator"]["names"]) == 132 and about["aggregator"]["aggregate_at"] == "grid"
    assert about["descriptor"] == "head" and about["base"] is None and about["pose"]["code"] == 64


def test_every_round_is_there_and_its_landmarks_keep_their_numbers(paper: Project) -> None:
    rounds = [name for method in ROUNDS for name in chain(method)]
    assert len(rounds) == 50
    for number, name in enumerate(rounds):
        assert read_labels(paper.root / f"artifacts/labels/{name}/labels.h5").count == 10
        figures = params.load(paper.root / f"metrics/rounds/{name}.json")
        assert figures["labels"] > 1 and (number == 0) == ("label_change" not in figures)
        assert figures.get("label_change", 0) < 0.1, name
    for before, after in itertools.pairwise(rounds):
        assert not same(weights(paper, before, "detector_head"), weights(paper, after, "detector_head")), after


def test_moments_go_from_round_to_round(paper: Project) -> None:
    """They begin anew where other parameters learn: at the first round of the pose proxy and of D-ULD++."""
    assert taken(paper, "silk") == {BOOTSTRAP}
    for method, before in {"duld": BOOTSTRAP, "pose_proxy": 0, "duld_pp": 0}.items():
        steps = [taken(paper, name) for name in chain(method)]
        assert steps == [{before + STEPS * number} for number in range(1, ROUNDS[method] + 1)], method


def test_descriptors_rest_from_the_pose_proxy_on(paper: Project) -> None:
    for part in ("descriptor_head", "aggregate"):
        duld, after = weights(paper, "duld-20", part), weights(paper, "duld_pp-20", part)
        assert duld and same(duld, after)
        assert not same(weights(paper, "silk", part), duld)


def test_every_row_is_scored_or_says_why_not(paper: Project) -> None:
    assert list(params.load(paper.root / "params.yaml")["rows"]) == ROWS
    for row in ROWS:
        tree = paper.metrics(row)
        for protocol, images in {"k2l-mafl": 301, "canonical": 300}.items():
            scored = tree[protocol]["points"]["dense"]["all"]
            ways = ("forward", "backward") if tree["landmarks"] else ("forward",)
            assert all(math.isfinite(scored[f"{way}_nme"]) for way in ways), row
            few = f"needs {images} annotated training images, may use 10"
            assert tree["unscored"][protocol] == {"points": {"n300": few}}, row
    page = (paper.root / "report/index.html").read_text()
    assert all(row in page for row in ROWS)
