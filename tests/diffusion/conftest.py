"""Small folders in the Stable-Diffusion format, made by diffusers itself, and crops to run them on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from tests.diffusion.filling import SHARD_BYTES, build
from uld.diffusion import backbone, building
from uld.diffusion.backbone import Backbone

WIDTH = 32  # of the prompt


def make_unet(latent: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=latent,
        out_channels=latent,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=8,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def make_vae(latent: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32),
        latent_channels=latent,
        norm_num_groups=8,
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


@pytest.fixture(scope="session")
def _sd_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UNet of 4 latent channels, VAE of factor 2, SD-1.5's scheduler settings and a stored prompt."""
    folder = tmp_path_factory.mktemp("sd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        make_unet().save_pretrained(folder / "unet")
        make_vae().save_pretrained(folder / "vae")
        save_file({"prompt": torch.randn(77, WIDTH).half()}, folder / "empty_prompt.safetensors")
    kind = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    PNDMScheduler(**kind, skip_prk_steps=True, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    (folder / "uld.json").write_text(json.dumps({"image_size": 16}))
    return folder


@pytest.fixture
def sd_folder(_sd_parts: Path, tmp_path: Path) -> Path:
    """A copy of a small Stable Diffusion that a test may spoil. Images 16 x 16, latents 4 x 8 x 8."""
    return shutil.copytree(_sd_parts, tmp_path / "sd")


@pytest.fixture
def v_folder(sd_folder: Path) -> Path:
    """The same as a v-prediction model, with the DDIM scheduler of SD 2.1."""
    kind = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    DDIMScheduler(**kind, prediction_type="v_prediction").save_pretrained(sd_folder / "scheduler")
    return sd_folder


@pytest.fixture
def sd21_folder(v_folder: Path) -> Path:
    """The same with a UNet shaped as that of SD 2.1: four blocks, heads a block, linear projections, another text."""
    shutil.rmtree(v_folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64, 96, 96),
            layers_per_block=2,
            norm_num_groups=16,
            attention_head_dim=(2, 4, 6, 6),
            cross_attention_dim=48,
            use_linear_projection=True,
            upcast_attention=True,
        )
        unet.save_pretrained(v_folder / "unet")
        save_file({"prompt": torch.randn(77, 48)}, v_folder / "empty_prompt.safetensors")
    (v_folder / "uld.json").write_text(json.dumps({"image_size": 32}))
    return v_folder


@pytest.fixture
def in_shards() -> Callable[..., None]:
    """Puts UNet and VAE of a folder into several files each."""

    def split(folder: Path, variant: str | None = None) -> None:
        for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
            model = kind.from_pretrained(folder / part)
            shutil.rmtree(folder / part)
            model.save_pretrained(folder / part, max_shard_size="200KB", variant=variant)
            assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1

    return split


@pytest.fixture
def sd(sd_folder: Path) -> Backbone:
    return backbone.load(sd_folder)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SHARD_BYTES", SHARD_BYTES)


@pytest.fixture
def whole(tmp_path: Path, small_shards: None) -> Path:
    """A store built without any trouble."""
    return build(tmp_path / "whole")
