"""Load a diffusion model: Stable Diffusion and the small embedded one through the same door.

A backbone is a diffusers folder: `unet/`, `scheduler/`, and for latent models `vae/` and the empty prompt. The sidecar
`uld.json` (ignored by diffusers) adds what diffusers does not record. `artifacts/backbone/` may hold, instead of
weights, a `reference.json` that points to a folder or hub id and pins its content hash.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from uld.base import runtime
from uld.base.errors import BackboneError, NotInstalled
from uld.diffusion import fewcells
from uld.diffusion.pinned import PROMPT, SIDECAR, fetch, fingerprint_of, resolve

UNETS = ("UNet2DModel", "UNet2DConditionModel")
# keys of a UNet's config.json that make it want an input beside image, timestep and text
MORE = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type", "encoder_hid_dim")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Backbone:
    """A frozen diffusion model ready for feature extraction.

    alphas (T,): the cumulative product of the noise schedule. prompt (1, L, C): the empty text of a conditional UNet,
    None for an unconditional one. image_size: side in pixels that images are resized to. width: channels that the UNet
    takes.
    """

    unet: nn.Module
    codec: "Codec"
    alphas: Tensor
    prediction_type: str
    prompt: Tensor | None
    image_size: int
    width: int
    fingerprint: str


class Codec(nn.Module):
    """Images (B, 3, R, R) in [-1, 1] to what the UNet denoises: VAE latents, or an orthonormal space-to-depth."""

    def __init__(self, vae: Any, factor: int, channels: int) -> None:
        super().__init__()
        self.vae, self.factor, self.channels = vae, factor, channels

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, C, R/f, R/f). The VAE's mode, never a sample: features must be cacheable."""
        if self.vae is not None:
            latent = self.vae.encode(images).latent_dist.mode() * self.vae.config.scaling_factor
            if not torch.isfinite(latent).all():
                raise BackboneError("the VAE made non-finite latents: use dtype float32 or bfloat16.")
            return latent
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
        return F.pixel_unshuffle(images, self.factor)


def load(folder: Path, dtype: str = "float32", trained: bool = True) -> Backbone:
    """Load a backbone onto the runtime's device, in eval mode and without gradients.

    Args:
        folder: a diffusers folder, or one with a `reference.json` to it.
        dtype: float32, float16 or bfloat16, of weights and activations.
        trained: False gives the same network with fresh random weights (a baseline).

    Raises:
        BackboneError: the folder lacks a part, a part does not fit another, or the pinned content has changed.
    """
    target, pinned = resolve(folder)
    root = fetch(target, pinned.get("revision"))
    variant = pinned.get("variant")
    fingerprint = pinned.get("fingerprint") or fingerprint_of(root)
    if pinned and fingerprint_of(root) != fingerprint:
        raise BackboneError(f"{root} has changed since the stage `backbone` left it: run `dvc repro -f backbone`.")
    device = runtime.device()
    kind = _unet_kind(root)
    if trained:
        unet = _with_weights(kind, root, "unet", DTYPES[dtype], variant)
    else:
        unet = _untrained(kind, root, DTYPES[dtype])
    vae = None
    if (root / "vae").is_dir():
        vae = _with_weights(_diffusers().AutoencoderKL, root, "vae", DTYPES[dtype], variant)
    codec = _codec(root, unet, vae)
    scheduler = _scheduler(root)
    prompt = _prompt(root, unet, variant) if conditional(unet) else None
    image_size = _image_size(root, pinned.get("image_size") or _sidecar(root).get("image_size"), unet, codec)
    parts: list[Any] = [unet, codec]
    for module in parts:
        module.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        if device.type == "cpu":
            fewcells.quicken(module)
    return Backbone(
        unet,
        codec,
        scheduler.alphas_cumprod.to(device),
        scheduler.config["prediction_type"],
        None if prompt is None else prompt.to(device, DTYPES[dtype]),
        image_size,
        unet.config["in_channels"],
        fingerprint if trained else f"untrained-{fingerprint}",
    )


def outline(root: Path, image_size: int) -> tuple[Any, Codec]:
    """UNet and codec of a diffusers folder without their weights, on the device `meta`.

    Raises:
        BackboneError: a part has no config.json, cannot be read out, or does not fit another or `image_size`.
    """
    with torch.device("meta"):
        unet = _without_weights(_unet_kind(root), root / "unet")
        vae = _without_weights(_diffusers().AutoencoderKL, root / "vae") if (root / "vae").is_dir() else None
    codec = _codec(root, unet, vae)
    _image_size(root, image_size, unet, codec)
    return unet, codec


def check(root: Path, variant: str | None, image_size: int) -> None:
    """Look for what `load` would refuse, as far as that shows without reading the weights.

    Raises:
        BackboneError: as `load`.
    """
    unet, codec = outline(root, image_size)
    _scheduler(root)
    _check_weights(root / "unet", variant)
    if codec.vae is not None:
        _check_weights(root / "vae", variant)
    if not conditional(unet):
        return
    if encodes(root):
        _check_weights(root / "text_encoder", variant, "model")
    else:
        _prompt(root, unet, variant)


def conditional(unet: Any) -> bool:
    """Whether a UNet takes a text."""
    return isinstance(unet, _diffusers().UNet2DConditionModel)


def encodes(root: Path) -> bool:
    """Whether the empty text goes through the folder's text encoder, as no embedding of it is stored."""
    return not (root / PROMPT).is_file() and (root / "text_encoder").is_dir() and (root / "tokenizer").is_dir()


def _diffusers() -> Any:
    """The library, imported when a model is: most stages only need what it left in the feature store."""
    import diffusers

    return diffusers


def _sidecar(root: Path) -> dict[str, Any]:
    return _json(root / SIDECAR) if (root / SIDECAR).is_file() else {}


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder} has no config.json: the folder is incomplete.")
    return _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read, download it again: {error}") from error


def _unet_kind(root: Path) -> Any:
    """The class of the folder's UNet, if it is one that can be read out."""
    config = _config(root / "unet")
    kind = config.get("_class_name")
    if kind not in UNETS:
        raise BackboneError(f"{root}/unet is a {kind}: a {' or '.join(UNETS)} is needed.")
    if more := [f"{key}: {config[key]}" for key in MORE if config.get(key) is not None]:
        raise BackboneError(
            f"{root}: its UNet wants more than a text ({', '.join(more)}), as those of SDXL, upscalers and unCLIP do: "
            "take Stable Diffusion 1 or 2."
        )
    return getattr(_diffusers(), kind)


def _without_weights(kind: Any, folder: Path) -> Any:
    try:
        return kind.from_config(_config(folder))
    except (RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(f"{folder}/config.json describes no {kind.__name__}: {error}") from error


def _with_weights(kind: Any, root: Path, part: str, dtype: torch.dtype, variant: str | None) -> Any:
    folder = root / part
    _config(folder)
    _check_weights(folder, variant)
    try:
        return kind.from_pretrained(
            str(root), subfolder=part, local_files_only=True, use_safetensors=True, torch_dtype=dtype, variant=variant
        )
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise BackboneError(f"{folder} cannot be loaded, make it or download it again: {error}") from error


def _check_weights(folder: Path, variant: str | None, stem: str = "diffusion_pytorch_model") -> None:
    """Refuse a part whose weights are not there whole in the `variant` that is wanted."""
    needed: dict[str | None, set[str]] = {}  # files by variant; where there is an index, it is its shards that count
    for file in sorted(folder.glob(f"{stem}.*"), key=lambda file: file.suffix == ".json"):
        name = file.name.removeprefix(stem)
        if whole := re.fullmatch(r"(?:\.([^.-]+))?\.safetensors", name):
            needed[whole[1]] = {file.name}
        elif index := re.fullmatch(r"\.safetensors(?:\.([^.]+))?\.index(?:\.([^.]+))?\.json", name):
            needed[index[1] or index[2]] = set(_json(file).get("weight_map", {}).values())
    if variant not in needed:
        if needed:
            others = " or ".join(sorted(other or "null" for other in needed))
            raise BackboneError(
                f"{folder} has no weights of variant {variant or 'null'}: set backbones.<name>.variant: {others}"
            )
        if any(folder.glob("*.safetensors")):
            raise BackboneError(f"{folder} lacks {stem}.safetensors or the index of its shards: download it again.")
        raise BackboneError(f"{folder} has no *.safetensors: pickled weights are refused, convert them first.")
    if absent := sorted(name for name in needed[variant] if not (folder / name).is_file()):
        raise BackboneError(f"{folder} lacks {', '.join(absent)}, which its index names: download it again.")


def _scheduler(root: Path) -> Any:
    """Only the noise schedule of the folder's scheduler is used, whatever its kind."""
    try:
        return _diffusers().DDIMScheduler.from_pretrained(str(root), subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError, NotImplementedError) as error:
        raise BackboneError(f"{root}/scheduler cannot be loaded: {error}") from error


def _image_size(root: Path, stated: int | None, unet: Any, codec: Codec) -> int:
    if stated is None:
        raise BackboneError(f"{root} does not say its image size: set `image_size` in its block of params.yaml.")
    step = codec.factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    if stated % step:
        raise BackboneError(f"{root}: image_size {stated} must be a multiple of {step} for this model.")
    return stated


def _untrained(kind: Any, root: Path, dtype: torch.dtype) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = _without_weights(kind, root / "unet")
    return fresh if dtype == torch.float32 else fresh.to(dtype)


def _codec(root: Path, unet: Any, vae: Any) -> Codec:
    width = unet.config["in_channels"]
    if vae is not None:
        if vae.config["latent_channels"] != width:
            raise BackboneError(
                f"{root}: the VAE makes {vae.config['latent_channels']} latent channels, the UNet takes {width}: "
                "they belong to different models."
            )
        return Codec(vae, 2 ** (len(vae.config["block_out_channels"]) - 1), 3)
    sidecar = _sidecar(root)
    channels = sidecar.get("channels", 3)
    factor = sidecar.get("factor") or round((width / channels) ** 0.5)
    if channels * factor * factor != width:
        raise BackboneError(f"{root}: a UNet of {width} input channels needs a 'vae/' folder.")
    return Codec(None, factor, channels)


def _prompt(root: Path, unet: Any, variant: str | None) -> Tensor:
    """(1, L, C) embedding of the empty text, stored or made by the text encoder. Zeros would be another input."""
    stored = root / PROMPT
    if stored.is_file():
        try:
            (prompt,) = load_file(stored).values()
        except (OSError, ValueError, SafetensorError) as error:
            raise BackboneError(f"{stored} must hold one tensor, the embedding of the empty text: {error}") from error
        prompt = prompt if prompt.ndim == 3 else prompt[None]
    elif encodes(root):
        prompt = _encode_empty(root, variant)
    else:
        raise BackboneError(f"{root}: a conditional UNet needs text_encoder/ and tokenizer/, or {PROMPT}.")
    width = unet.config["cross_attention_dim"]
    if prompt.shape[-1] != width:
        raise BackboneError(
            f"{root}: the prompt is {prompt.shape[-1]} wide, the UNet takes {width}: they belong to different models."
        )
    return prompt


def _encode_empty(root: Path, variant: str | None) -> Tensor:
    try:
        from transformers import AutoTokenizer, CLIPTextModel
    except ImportError as error:
        raise NotInstalled(f"the text encoder needs `pip install 'uld[sd]'`, or store {PROMPT}.") from error
    _check_weights(root / "text_encoder", variant, "model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer", local_files_only=True, trust_remote_code=False)
        tokens = tokenizer("", padding="max_length", truncation=True, return_tensors="pt")
        encoder = CLIPTextModel.from_pretrained(
            root / "text_encoder", local_files_only=True, use_safetensors=True, variant=variant
        ).float()
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(f"{root}: its text encoder or tokenizer cannot be loaded: {error}") from error
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]
