"""The embedded backbone: it learns, stops and resumes exactly, and is a diffusers model in the end."""

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors import SafetensorError
from torch import Tensor

from uld.base import random, stop
from uld.base.errors import BackboneError, ULDError
from uld.base.scratch import scratch_folder
from uld.diffusion import backbone, training
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.training import AugmentParams, TrainParams

STILL = AugmentParams(mirror=0, shift=0, rotate=0, scale=0, contrast=0)
PARAMS = TrainParams(
    kind="train",
    image_size=16,
    channels=1,
    factor=2,
    widths=(16, 32),
    layers_per_block=1,
    images=8,
    holdout=0.25,
    batch=4,
    lr=4e-3,
    warmup=5,
    decay="constant",
    ema=0.9,
    max_timestep=500,
    check_timesteps=(142,),
    check_every=10,
    min_gain=0.0,
    patience=3,
    max_steps=30,
    augment=AugmentParams(mirror=0.5, shift=0.05, rotate=5, scale=0.1, contrast=0.1),
)
GROUPS = np.array(["a", "a", "b", "b", "c", "c", "d", "d"], dtype=object)


def crops(size: int = 16) -> Tensor:
    """Eight grey discs of different size and place on an even ground, (8, 3, S, S) uint8."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    at = torch.linspace(0.3, 0.7, 8) * size
    discs = [((x - c) ** 2 + (y - size / 2) ** 2 < (size / 4 + n / 8) ** 2) * 160 + 40 for n, c in enumerate(at)]
    return torch.stack(discs)[:, None].expand(-1, 3, -1, -1).to(torch.uint8)


def train(folder: Path, params: TrainParams = PARAMS, images: Tensor | None = None, seed: int = 0) -> dict[str, float]:
    return training.train(folder, crops() if images is None else images, GROUPS, params, seed, "crops")


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run without any trouble."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULD_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
        patch.setenv("ULD_DEVICE", "cpu")
        return folder, train(folder)


# --- a run ---


def test_it_learns(whole: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    early = train(tmp_path, replace(PARAMS, max_steps=1))
    assert 0.9 < early["heldout_error"] < 1.5  # predicting nothing costs 1
    assert whole[1]["heldout_error"] < 0.75 * early["heldout_error"]
    assert whole[1]["train_error"] < 0.75 * early["train_error"]
    assert whole[1]["step"] == 30


def test_the_same_seed_gives_the_same_bytes(whole: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    assert train(tmp_path / "again") == whole[1]
    assert digest(tmp_path / "again") == digest(whole[0])
    train(tmp_path / "other", seed=1)
    assert digest(tmp_path / "other") != digest(whole[0])


@pytest.mark.parametrize("at", [10, 17, 29])
def test_an_interrupted_run_goes_on_exactly(
    whole: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    steps = spy(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(stop.Interrupted, match=f"^backbone saved at step {at} of 30; run again to go on"):
        train(tmp_path)
    assert not list(tmp_path.iterdir())
    assert train(tmp_path) == whole[1]
    assert steps == list(range(1, 31))  # none twice
    assert digest(tmp_path) == digest(whole[0])


def test_a_killed_run_goes_on_from_its_last_check(
    whole: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise MemoryError

    steps = spy(monkeypatch, 17, kill)
    with pytest.raises(MemoryError):
        train(tmp_path)
    assert train(tmp_path) == whole[1]
    assert steps == [*range(1, 18), *range(11, 31)]
    assert digest(tmp_path) == digest(whole[0])
    assert not list(scratch_folder("x").parent.glob("backbone-*/*"))  # nothing to resume from any more


def spy(monkeypatch: pytest.MonkeyPatch, at: int, act: Any) -> list[int]:
    """Steps begun, counted from 1; in the first one numbered `at`, `act`."""
    real, steps = training._Task.step, list[int]()

    def step(task: Any, number: int) -> Any:
        loss = real(task, number)
        steps.append(number + 1)
        if number + 1 == at and steps.count(at) == 1:
            act()
        return loss

    monkeypatch.setattr(training._Task, "step", step)
    return steps


def test_it_stops_when_the_heldout_error_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors at the checks: better, better, worse; with patience 1 the third check is the last, the second is kept."""
    errors, averages = iter([0.9, 0.5, 0.8]), []

    def error(task: Any, net: UNet2DModel, images: Tensor) -> float:
        if images is not task.held:
            return 0.1
        averages.append({name: value.clone() for name, value in net.state_dict().items()})
        return next(errors)

    monkeypatch.setattr(training._Task, "error", error)
    steps = spy(monkeypatch, -1, None)
    figures = train(tmp_path, replace(PARAMS, check_every=2, patience=1))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert figures == {"heldout_error": 0.5, "train_error": 0.1, "step": 4}
    saved = UNet2DModel.from_pretrained(tmp_path, subfolder="unet").state_dict()
    assert all(torch.equal(saved[name], value) for name, value in averages[1].items())
    assert not torch.equal(saved["conv_in.weight"], averages[2]["conv_in.weight"])


def test_a_gain_too_small_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([0.9, 0.89])
    monkeypatch.setattr(training._Task, "error", lambda task, net, images: next(errors) if images is task.held else 0.1)
    figures = train(tmp_path, replace(PARAMS, check_every=2, patience=1, min_gain=0.05))
    assert figures["step"] == 4  # it ended the run, but it is the best


def test_a_full_disk_costs_no_training(
    whole: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise SafetensorError("no space left")

    with monkeypatch.context() as patch, pytest.raises(BackboneError, match="cannot be written"):
        patch.setattr(UNet2DModel, "save_pretrained", full)
        train(tmp_path)
    steps = spy(monkeypatch, -1, None)
    assert train(tmp_path) == whole[1] and not steps
    assert digest(tmp_path) == digest(whole[0])


def test_patience_is_not_renewed_by_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurried = replace(PARAMS, check_every=2, min_gain=0.9, patience=2)  # the second and third check are no progress
    steps = spy(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(stop.Interrupted):
        train(tmp_path, hurried)
    train(tmp_path, hurried)
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_shorter_than_a_check_is_checked_at_its_end(tmp_path: Path) -> None:
    figures = train(tmp_path, replace(PARAMS, max_steps=7))
    assert figures["step"] == 7
    assert np.isfinite(figures["heldout_error"])
    steps = train(tmp_path, replace(PARAMS, max_steps=13, patience=9))["step"]
    assert steps == 13


def test_the_learning_rate_that_explodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ULDError, match=r"^backbone: at step \d+ the loss is .* gradient norm .*: lower backbones\.\*\.lr"
    ):
        train(tmp_path, replace(PARAMS, lr=1e30))


@pytest.mark.parametrize(
    "changes", [{"image_size": 18}, {"factor": 3}, {"widths": (24, 32)}, {"widths": (16, 48)}, {"widths": (16, 16)}]
)
def test_sizes_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match=r"image_size \d+ must be a multiple of \d+ .* widths .* multiples of 16"):
        train(tmp_path, replace(PARAMS, **changes))


# --- what it makes ---


def test_it_is_a_diffusers_model(whole: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]) -> None:
    unet = UNet2DModel.from_pretrained(whole[0], subfolder="unet")
    assert unet.config["sample_size"] == 8
    pipeline = DDPMPipeline.from_pretrained(whole[0])
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline(batch_size=1, num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(0))
    assert out.images.shape == (1, 8, 8, 4)  # space-to-depth: 4 channels of half the side


def test_the_loader_of_stable_diffusion_reads_it(whole: tuple[Path, dict[str, float]]) -> None:
    model = backbone.load(whole[0])
    assert (model.image_size, model.width, model.codec.factor, model.codec.channels) == (16, 4, 2, 1)
    assert model.prediction_type == "epsilon"
    readout = ReadoutParams(((0, 0), (1, 1)), (24, 142), "add_noise", 50, "float32")
    features = Extractor(model, readout, 0)(crops().float() / 255)
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == {
        "l00_t24": (32, 4, 4),
        "l11_t24": (16, 8, 8),
        "l00_t142": (32, 4, 4),
        "l11_t142": (16, 8, 8),
    }


def test_the_weights_kept_are_those_of_the_error_told(whole: tuple[Path, dict[str, float]]) -> None:
    """Denoising error of the saved folder on the held-out crops, as DDPM defines it."""
    model = backbone.load(whole[0])
    held = training.hold_out(GROUPS, PARAMS.holdout, random.rng(0, "holdout"))
    latent = model.codec(crops()[torch.from_numpy(held)].float() / 127.5 - 1)
    noise = torch.randn(64, *latent.shape, generator=torch.Generator().manual_seed(0))
    alpha = model.alphas[142]
    with torch.no_grad():
        seen = model.unet((alpha.sqrt() * latent + (1 - alpha).sqrt() * noise).flatten(0, 1), 142).sample
    assert (seen - noise.flatten(0, 1)).square().mean() == pytest.approx(whole[1]["heldout_error"], rel=0.15)


def test_crops_of_another_size_are_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network must see at training what it will see when features are read."""
    seen: set[tuple[int, ...]] = set()
    loss = training._Task._loss

    def spied(task: Any, net: UNet2DModel, latent: Tensor, *rest: Any) -> Tensor:
        seen.add(tuple(latent.shape[1:]))
        return loss(task, net, latent, *rest)

    monkeypatch.setattr(training._Task, "_loss", spied)
    train(tmp_path, replace(PARAMS, max_steps=2), crops(40))
    assert seen == {(4, 8, 8)}
    small = training._resized(crops(40), 16)
    assert small.dtype == torch.uint8
    assert (small.float() - crops(16)).abs().mean() < 12
