"""What is said when a folder is no model, or its parts do not fit each other."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from tests.diffusion.folders import edit, refused
from uld.base.errors import BackboneError
from uld.diffusion import backbone, pinned
from uld.diffusion.pinned import PinnedParams


def test_a_missing_folder_does_not_blame_the_network() -> None:
    for path in ("/nowhere/sd", "./nowhere/sd", "nowhere", "~/sd", "a/b/c"):
        said = refused_path(path)
        assert f"backbone folder {path} does not exist" in said
        assert "network" not in said.lower()
        assert "connect" not in said.lower()


def test_no_features_without_a_backbone(tmp_path: Path) -> None:
    (tmp_path / pinned.REFERENCE).write_text("{}")  # as the stage writes it for a block of kind none
    with pytest.raises(BackboneError, match=r"a block of kind none, so there are no features: set `stores` to \{\}"):
        backbone.load(tmp_path)


def refused_path(path: str) -> str:
    with pytest.raises(BackboneError) as caught:
        pinned.pin(PinnedParams("pinned", path, None, None, 64))
    return str(caught.value)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "weights/stable-diffusion-v1-5", "no body/mo del"])
def test_a_hub_id_that_is_not_there_is_quick_and_clear(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    said = refused_path(name)
    assert time.monotonic() - start < 20
    assert f"backbone '{name}' is neither a folder nor in the local hub cache" in said
    assert "ULD_OFFLINE=0" in said


def _drop(*parts: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for part in parts:
            shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()

    return spoil


def _pickled(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def _other_vae(folder: Path) -> None:
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        latent_channels=8,
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae")


def _wide_prompt(folder: Path) -> None:
    save_file({"prompt": torch.zeros(77, 48)}, folder / "empty_prompt.safetensors")


def _two_prompts(folder: Path) -> None:
    save_file({"a": torch.zeros(77, 32), "b": torch.zeros(77, 32)}, folder / "empty_prompt.safetensors")


def _no_unet_inside(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    shutil.copytree(folder / "vae", folder / "unet")


def _unknown_class(folder: Path) -> None:
    edit(folder / "unet/config.json", _class_name="UNetOfTomorrow")


def _truncated(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _other_widths(folder: Path) -> None:
    edit(folder / "unet/config.json", block_out_channels=[32, 96])


def _no_json(folder: Path) -> None:
    (folder / "unet/config.json").write_text("{")


def _sdxl(folder: Path) -> None:
    edit(
        folder / "unet/config.json",
        addition_embed_type="text_time",
        projection_class_embeddings_input_dim=32,
        addition_time_embed_dim=4,
    )


def _upscaler(folder: Path) -> None:
    edit(folder / "unet/config.json", num_class_embeds=1000)


def _unclip(folder: Path) -> None:
    edit(folder / "unet/config.json", class_embed_type="projection", projection_class_embeddings_input_dim=32)


def _image_prompt(folder: Path) -> None:
    edit(
        folder / "unet/config.json", addition_embed_type="image", encoder_hid_dim_type="image_proj", encoder_hid_dim=32
    )


def _no_shapes(folder: Path) -> None:
    edit(folder / "unet/config.json", block_out_channels=[32])


def _odd_names(folder: Path) -> None:
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("weights.safetensors"))


def _half_encoder(folder: Path) -> None:
    (folder / "empty_prompt.safetensors").unlink()
    (folder / "text_encoder").mkdir()
    (folder / "tokenizer").mkdir()


def _no_encoder_inside(folder: Path) -> None:
    _half_encoder(folder)
    shutil.copy(folder / "unet/diffusion_pytorch_model.safetensors", folder / "text_encoder/model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("unet"), "it has no 'unet/'"),
        (_drop("scheduler"), "it has no 'scheduler/'"),
        (_drop("unet/config.json"), "has no config.json: the folder is incomplete"),
        (_drop("vae/config.json"), "vae has no config.json"),
        (_drop("scheduler/scheduler_config.json"), "scheduler cannot be loaded"),
        (_drop("uld.json"), "does not say its image size: set `image_size`"),
        (_drop("vae"), "a UNet of 4 input channels needs a 'vae/' folder"),
        (_drop("empty_prompt.safetensors"), "needs text_encoder/ and tokenizer/, or empty_prompt.safetensors"),
        (_half_encoder, "text_encoder has no *.safetensors: pickled weights are refused"),
        (_no_encoder_inside, "text encoder or tokenizer cannot be loaded"),
        (_pickled, "pickled weights are refused, convert them"),
        (_other_vae, "the VAE makes 8 latent channels, the UNet takes 4"),
        (_wide_prompt, "the prompt is 48 wide, the UNet takes 32"),
        (_two_prompts, "empty_prompt.safetensors must hold one tensor"),
        (_no_unet_inside, "is a AutoencoderKL: a UNet2DModel or UNet2DConditionModel is needed"),
        (_unknown_class, "is a UNetOfTomorrow: a UNet2DModel or UNet2DConditionModel is needed"),
        (_truncated, "unet cannot be loaded"),
        (_other_widths, "unet cannot be loaded"),
        (_no_json, "unet/config.json cannot be read, download it again"),
        (_odd_names, "unet lacks diffusion_pytorch_model.safetensors or the index of its shards"),
        (_sdxl, "wants more than a text (addition_embed_type: text_time)"),
        (_upscaler, "wants more than a text (num_class_embeds: 1000)"),
        (_unclip, "wants more than a text (class_embed_type: projection)"),
        (_image_prompt, "wants more than a text (addition_embed_type: image, encoder_hid_dim_type: image_proj"),
        (lambda folder: edit(folder / "uld.json", image_size=18), "image_size 18 must be a multiple of 4"),
    ],
)
def test_a_folder_that_does_not_fit(sd_folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(sd_folder)
    said = refused(sd_folder)
    assert message in said
    assert str(sd_folder) in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("unet/config.json"), "unet has no config.json: the folder is incomplete"),
        (_drop("vae/config.json"), "vae has no config.json"),
        (_drop("scheduler/scheduler_config.json"), "scheduler cannot be loaded"),
        (_drop("vae"), "a UNet of 4 input channels needs a 'vae/' folder"),
        (_drop("empty_prompt.safetensors"), "needs text_encoder/ and tokenizer/, or empty_prompt.safetensors"),
        (_pickled, "pickled weights are refused, convert them"),
        (_other_vae, "the VAE makes 8 latent channels, the UNet takes 4"),
        (_wide_prompt, "the prompt is 48 wide, the UNet takes 32"),
        (_no_shapes, "config.json describes no UNet2DConditionModel"),
        (_upscaler, "wants more than a text"),
    ],
)
def test_it_shows_without_the_weights(sd_folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    backbone.check(sd_folder, None, 16)
    spoil(sd_folder)
    with pytest.raises(BackboneError) as caught:
        backbone.check(sd_folder, None, 16)
    assert message in str(caught.value)
    assert str(sd_folder) in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_missing_shard(sd_folder: Path, in_shards, part: str) -> None:
    in_shards(sd_folder)
    backbone.load(sd_folder)
    last = sorted((sd_folder / part).glob("*-of-*.safetensors"))[-1]
    last.unlink()
    said = f"{part} lacks {last.name}, which its index names: download it again"
    assert said in refused(sd_folder)
    with pytest.raises(BackboneError, match=said):
        backbone.check(sd_folder, None, 16)


def test_shards_without_their_index(sd_folder: Path, in_shards) -> None:
    in_shards(sd_folder)
    (sd_folder / "unet/diffusion_pytorch_model.safetensors.index.json").unlink()
    assert "lacks diffusion_pytorch_model.safetensors or the index of its shards" in refused(sd_folder)


def test_the_vae_says_when_it_overflows(sd_folder: Path) -> None:
    model = backbone.load(sd_folder)
    with pytest.raises(BackboneError, match="the VAE made non-finite latents: use dtype float32"):
        model.codec(torch.full((1, 3, 16, 16), torch.nan))
