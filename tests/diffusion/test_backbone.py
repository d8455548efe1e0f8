"""One door for Stable Diffusion and the small model, and what is said when a folder does not fit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file

from tests.diffusion.folders import refused
from uld.base.errors import BackboneError
from uld.diffusion import backbone, pinned
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.pinned import PinnedParams

CLIP_LETTERS = [chr(code) for code in range(33, 127)]


def pin(artifacts: Path, folder: Path, **changes: object) -> Path:
    """An artifacts/backbone/ folder that refers to `folder`, as the stage writes it."""
    block = {"kind": "pinned", "path": str(folder), "revision": None, "variant": None, "image_size": 16} | changes
    artifacts.mkdir(exist_ok=True)
    (artifacts / "reference.json").write_text(json.dumps(pinned.pin(PinnedParams(**block))))
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
    backbone.check(sd_folder, "fp16", 16)
    for variant, folder in (("null", sd_folder), ("bf16", pin(tmp_path / "wrong", sd_folder, variant="bf16"))):
        assert f"unet has no weights of variant {variant}: set backbones.<name>.variant: fp16" in refused(folder)
    with pytest.raises(BackboneError, match=r"unet has no weights .* set backbones.<name>.variant: fp16"):
        backbone.check(sd_folder, None, 16)


def test_a_text_encoder_of_another_variant(sd_folder: Path) -> None:
    (sd_folder / "empty_prompt.safetensors").unlink()
    add_text_encoder(sd_folder, "fp16")
    said = "text_encoder has no weights of variant null: set backbones.<name>.variant: fp16"
    assert said in refused(sd_folder)
    with pytest.raises(BackboneError, match=said):
        backbone.check(sd_folder, None, 16)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards(sd_folder: Path, tmp_path: Path, in_shards, variant: str | None) -> None:
    whole = backbone.load(sd_folder)
    in_shards(sd_folder, variant)
    backbone.check(sd_folder, variant, 16)
    if variant:
        assert refused(sd_folder).endswith("unet has no weights of variant null: set backbones.<name>.variant: fp16")
    model = backbone.load(pin(tmp_path / "backbone", sd_folder, variant=variant))
    assert model.fingerprint != whole.fingerprint
    for one, two in ((whole.unet, model.unet), (whole.codec, model.codec)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@torch.no_grad()
def test_the_shapes_of_sd21(sd21_folder: Path) -> None:
    """Against the UNet as diffusers loads it: a plain pass, looked at where the layers are."""
    model = backbone.load(sd21_folder)
    backbone.check(sd21_folder, None, 32)
    assert model.prediction_type == "v_prediction"
    assert model.prompt is not None and model.prompt.shape == (1, 77, 48)
    layers = tuple((i, j) for i in range(4) for j in range(3))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    reader = Extractor(model, ReadoutParams(layers, (261,), "add_noise", 50, "float32"), 0)
    got = reader(images)

    unet = UNet2DConditionModel.from_pretrained(sd21_folder / "unet").eval()
    assert unet.down_blocks[2].attentions[0].transformer_blocks[0].attn2.heads == 6
    assert isinstance(unet.down_blocks[0].attentions[0].proj_in, torch.nn.Linear)
    vae = AutoencoderKL.from_pretrained(sd21_folder / "vae").eval()
    latent = vae.encode(images * 2 - 1).latent_dist.mean * vae.config["scaling_factor"]
    seen: dict[str, torch.Tensor] = {}
    for i, j in layers:
        keep = lambda module, inputs, out, name=f"l{i}{j}_t261": seen.update({name: out})  # noqa: E731
        unet.up_blocks[i].resnets[j].conv2.register_forward_hook(keep)
    alpha = model.alphas[261]
    noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * reader.noise[261]
    text = load_file(sd21_folder / "empty_prompt.safetensors")["prompt"]
    output = unet(noisy, torch.tensor([261, 261]), text.expand(2, -1, -1)).sample
    assert set(got) == set(seen)
    for name, value in seen.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-5)
    noise = alpha.sqrt() * output + (1 - alpha).sqrt() * noisy  # of a velocity
    torch.testing.assert_close(reader.denoise(noisy, 261), noise, atol=1e-5, rtol=1e-5)
    assert {tuple(value.shape[1:]) for value in got.values()} == {(96, 2, 2), (96, 4, 4), (64, 8, 8), (32, 16, 16)}


def test_an_outline_has_the_shapes_and_no_weights(sd_folder: Path) -> None:
    model = backbone.load(sd_folder)
    unet, codec = backbone.outline(sd_folder, 16)
    assert codec.factor == model.codec.factor
    for one, two in ((unet, model.unet), (codec, model.codec)):
        shapes = [{name: p.shape for name, p in each.named_parameters()} for each in (one, two)]
        assert shapes[0] == shapes[1]
        assert all(p.device.type == "meta" for p in one.parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype(pixel_folder: Path, dtype: str) -> None:
    assert next(backbone.load(pixel_folder, dtype).unet.parameters()).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_untrained_twin_reads_no_weights(pixel_folder: Path, monkeypatch, dtype: str) -> None:
    """So it takes no more memory than itself in float32; its values belong to committed results."""
    config = UNet2DModel.from_pretrained(pixel_folder / "unet").config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        want = UNet2DModel.from_config(config).to(getattr(torch, dtype))
    monkeypatch.setattr(UNet2DModel, "from_pretrained", lambda *_, **__: pytest.fail("reads weights"))
    fresh = backbone.load(pixel_folder, dtype, trained=False)
    state = fresh.unet.state_dict()
    assert state.keys() == want.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in want.state_dict().items())


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
    assert pinned.fingerprint_of(moved) == pinned.fingerprint_of(sd_folder)


@pytest.mark.parametrize(
    "part",
    ["unet/config.json", "vae/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "uld.json"],
)
def test_changed_content_is_refused(sd_folder: Path, tmp_path: Path, part: str) -> None:
    folder = pin(tmp_path / "backbone", sd_folder)
    with (sd_folder / part).open("ab") as file:
        file.write(b" ")
    assert "has changed since the stage `backbone` left it: run `dvc repro -f backbone`" in refused(folder)
