"""One door for Stable Diffusion and the small model, and what is said when a folder does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file

from uld.errors import BackboneError
from uld.features import backbone
from uld.features.backbone import PinnedParams

CLIP_LETTERS = [chr(code) for code in range(33, 127)]


def refused(folder: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        backbone.load(folder)
    return str(caught.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pin(artifacts: Path, folder: Path, **changes: object) -> Path:
    """An artifacts/backbone/ folder that refers to `folder`, as the stage writes it."""
    block = {"kind": "pinned", "path": str(folder), "revision": None, "variant": None, "image_size": 16} | changes
    artifacts.mkdir(exist_ok=True)
    (artifacts / "reference.json").write_text(json.dumps(backbone.pin(PinnedParams(**block))))
    return artifacts


def add_text_encoder(folder: Path, variant: str | None = None) -> torch.Tensor:
    """A small CLIP text encoder and a tokenizer of single letters; its embedding of the empty text."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = [*CLIP_LETTERS, *(f"{letter}</w>" for letter in CLIP_LETTERS), "<|startoftext|>", "<|endoftext|>"]
    start, end = len(tokens) - 2, len(tokens) - 1
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": tokens[start], **dict.fromkeys(("eos_token", "unk_token", "pad_token"), tokens[end])}
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(about))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), bos_token_id=start, eos_token_id=end, **sizes))
    encoder.save_pretrained(folder / "text_encoder", variant=variant)
    with torch.no_grad():
        return encoder.eval()(torch.tensor([[start] + [end] * 76]))[0]


# --- what loads ---


def test_stable_diffusion_layout(sd_folder: Path) -> None:
    model = backbone.load(sd_folder)
    assert isinstance(model.unet, UNet2DConditionModel)
    assert (model.image_size, model.width, model.codec.factor) == (16, 4, 2)
    assert model.prediction_type == "epsilon"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(model.alphas.double(), (1 - betas).cumprod(0), atol=1e-5, rtol=0)
    assert model.prompt is not None
    stored = load_file(sd_folder / "empty_prompt.safetensors")["prompt"]
    torch.testing.assert_close(model.prompt, stored[None].float())
    assert not any(p.requires_grad for part in (model.unet, model.codec) for p in part.parameters())
    assert not model.unet.training
    assert not model.codec.training


def test_the_latent_is_the_scaled_mode(sd_folder: Path) -> None:
    model = backbone.load(sd_folder)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    vae = AutoencoderKL.from_pretrained(sd_folder / "vae").eval()
    with torch.no_grad():
        want = vae.encode(images).latent_dist.mean * vae.config["scaling_factor"]
        torch.testing.assert_close(model.codec(images), want)
        assert torch.equal(model.codec(images), model.codec(images))


def test_v_prediction_is_read_from_the_scheduler(v_folder: Path) -> None:
    assert backbone.load(v_folder).prediction_type == "v_prediction"


def test_pixel_layout(pixel_folder: Path) -> None:
    model = backbone.load(pixel_folder)
    assert model.prompt is None
    assert (model.image_size, model.width, model.codec.factor) == (32, 12, 2)
    images = torch.rand(2, 3, 32, 32)
    latent = model.codec(images)
    assert latent.shape == (2, 12, 16, 16)
    torch.testing.assert_close(latent.square().sum(), images.square().sum())  # orthonormal: noise levels keep
    torch.testing.assert_close(latent[:, :, 3, 5].reshape(2, 3, 2, 2), images[:, :, 6:8, 10:12])


def test_grey_codec_averages_the_colours() -> None:
    images = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(
        backbone.Codec(None, 2, 1)(images), torch.nn.functional.pixel_unshuffle(images.mean(1, keepdim=True), 2)
    )


def test_the_prompt_comes_from_the_text_encoder(sd_folder: Path) -> None:
    (sd_folder / "empty_prompt.safetensors").unlink()
    want = add_text_encoder(sd_folder)
    prompt = backbone.load(sd_folder).prompt
    assert prompt is not None
    torch.testing.assert_close(prompt, want, atol=1e-5, rtol=0)
    assert prompt.std() > 0.1


def test_half_precision_files_by_variant(sd_folder: Path, tmp_path: Path) -> None:
    """A folder that holds nothing but *.fp16.safetensors, as SD's half-size downloads do."""
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        model = kind.from_pretrained(sd_folder / part).half()
        shutil.rmtree(sd_folder / part)
        model.save_pretrained(sd_folder / part, variant="fp16")
    (sd_folder / "empty_prompt.safetensors").unlink()
    add_text_encoder(sd_folder, "fp16")
    assert not list(sd_folder.glob("*/diffusion_pytorch_model.safetensors"))
    model = backbone.load(pin(tmp_path / "backbone", sd_folder, variant="fp16"))
    assert next(model.unet.parameters()).dtype == torch.float32
    assert "unet cannot be loaded" in refused(sd_folder)
    assert "unet cannot be loaded" in refused(pin(tmp_path / "wrong", sd_folder, variant="bf16"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(pixel_folder: Path, dtype: str) -> None:
    assert next(backbone.load(pixel_folder, dtype).unet.parameters()).dtype == getattr(torch, dtype)


def test_an_untrained_twin(pixel_folder: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trained, fresh, again = (backbone.load(pixel_folder, trained=t) for t in (True, False, False))
    for (name, one), two, three in zip(
        trained.unet.named_parameters(), fresh.unet.parameters(), again.unet.parameters(), strict=True
    ):
        assert torch.equal(two, three), name
        if name.endswith("conv2.weight"):
            assert not torch.allclose(one, two), name
    assert fresh.fingerprint == f"untrained-{trained.fingerprint}"
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_a_reference_gives_what_the_folder_gives(sd_folder: Path, tmp_path: Path) -> None:
    model = backbone.load(pin(tmp_path / "backbone", sd_folder, image_size=32))
    direct = backbone.load(sd_folder)
    assert model.fingerprint == direct.fingerprint
    assert model.image_size == 32
    assert all(torch.equal(a, b) for a, b in zip(model.unet.parameters(), direct.unet.parameters(), strict=True))


# --- content ---


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(sd_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(sd_folder, tmp_path / "elsewhere")
    (moved / "README.md").write_text("not used")
    assert backbone.fingerprint_of(moved) == backbone.fingerprint_of(sd_folder)


@pytest.mark.parametrize(
    "part",
    ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "uld.json"],
)
def test_changed_content_is_refused(sd_folder: Path, tmp_path: Path, part: str) -> None:
    pinned = pin(tmp_path / "backbone", sd_folder)
    with (sd_folder / part).open("ab") as file:
        file.write(b" ")
    assert "has changed since the backbone stage pinned it: run `dvc repro -f backbone`" in refused(pinned)
