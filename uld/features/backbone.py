"""Load a diffusion model: Stable Diffusion and the small embedded one through the same door.

A backbone is a diffusers folder: `unet/`, `scheduler/`, and for latent models `vae/` and the empty prompt. The sidecar
`uld.json` (ignored by diffusers) adds what diffusers does not record. `artifacts/backbone/` may hold, instead of
weights, a `reference.json` that points to a folder or hub id and pins its content hash.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as closed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from uld import runtime
from uld.errors import BackboneError, NotInstalled
from uld.params import CLOSED

SIDECAR = "uld.json"
REFERENCE = "reference.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@closed(frozen=True, config=CLOSED)
class PinnedParams:
    """An existing model, used as it is."""

    kind: Literal["pinned"]
    path: str  # a local diffusers folder, or a hub id (fetched only with ULD_OFFLINE=0)
    revision: str | None  # commit of a hub id; None for a folder
    variant: str | None  # "fp16" selects *.fp16.safetensors
    image_size: Annotated[int, Field(ge=8)]  # pixels the crop is resized to before encoding


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
    sidecar = json.loads((root / SIDECAR).read_text()) if (root / SIDECAR).is_file() else {}
    fingerprint = pinned.get("fingerprint") or fingerprint_of(root)
    if pinned and fingerprint_of(root) != fingerprint:
        raise BackboneError(f"{root} has changed since the backbone stage pinned it: run `dvc repro -f backbone`.")
    device = runtime.device()
    unet = _unet(root, DTYPES[dtype], variant)
    if not trained:
        unet = _untrained(unet, DTYPES[dtype])
    codec = _codec(root, unet, sidecar, DTYPES[dtype], variant)
    scheduler = _scheduler(root)
    prompt = _prompt(root, unet, variant) if conditional(unet) else None
    image_size = _image_size(root, pinned.get("image_size") or sidecar.get("image_size"), unet, codec)
    parts: list[Any] = [unet, codec]
    for module in parts:
        module.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
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


def pin(params: PinnedParams) -> dict[str, Any]:
    """The `reference.json` of an existing model: where it is and the hash of its content."""
    root = fetch(params.path, params.revision)
    return {
        "path": params.path,
        "revision": params.revision,
        "variant": params.variant,
        "image_size": params.image_size,
        "fingerprint": fingerprint_of(root),
    }


def resolve(folder: Path) -> tuple[str, dict[str, Any]]:
    """Where the weights of an artifacts/backbone/ folder are, and its reference (empty if they are inside)."""
    if (folder / REFERENCE).is_file():
        reference = json.loads((folder / REFERENCE).read_text())
        return reference["path"], reference
    return str(folder), {}


def fetch(path: str, revision: str | None = None) -> Path:
    """The local folder of a path or hub id; the hub is asked only with `ULD_OFFLINE=0`."""
    if Path(path).is_dir():
        root = Path(path)
    elif path.count("/") != 1 or path.startswith((".", "/", "~")):
        # looked at first: diffusers would blame the network for a missing folder
        raise BackboneError(f"backbone folder {path} does not exist: give a diffusers folder or a hub id 'owner/name'.")
    else:
        root = _snapshot(path, revision)
    for part in ("unet", "scheduler"):
        if not (root / part).is_dir():
            raise BackboneError(f"{root} is no diffusers folder: it has no '{part}/' (needed: unet/, scheduler/).")
    return root


def _snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["unet/*", "vae/*", "scheduler/*", "text_encoder/*", "tokenizer/*", "*.json", "empty_prompt.safetensors"]
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=wanted,
                ignore_patterns=["*.bin", "*.ckpt", "*.msgpack"],
                local_files_only=runtime.offline(),
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, ConnectionError) as error:
        raise BackboneError(
            f"backbone '{name}' is neither a folder nor in the local hub cache. Download it elsewhere and give the "
            f"folder, or allow the download with ULD_OFFLINE=0 ({type(error).__name__})."
        ) from error


def fingerprint_of(root: Path) -> str:
    """sha256 over the names and contents of every file of the parts that are used."""
    digest = hashlib.sha256()
    parts = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
    files = [f for part in parts for f in sorted((root / part).glob("*")) if f.suffix in (".json", ".safetensors")]
    for path in files + [f for f in (root / SIDECAR, root / "empty_prompt.safetensors") if f.is_file()]:
        digest.update(str(path.relative_to(root)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def conditional(unet: Any) -> bool:
    """Whether a UNet takes a text."""
    return isinstance(unet, _diffusers().UNet2DConditionModel)


def _diffusers() -> Any:
    """The library, imported when a model is: most stages only need what it left in the feature store."""
    import diffusers

    return diffusers


def _part(root: Path, name: str, kind: Any, dtype: torch.dtype, variant: str | None) -> Any:
    folder = root / name
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder} has no config.json: the folder is incomplete.")
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(f"{folder} has no *.safetensors: pickled weights are refused, convert them first.")
    try:
        return kind.from_pretrained(
            str(root), subfolder=name, local_files_only=True, use_safetensors=True, torch_dtype=dtype, variant=variant
        )
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise BackboneError(f"{folder} cannot be loaded: {error}") from error


def _scheduler(root: Path) -> Any:
    """Only the noise schedule of the folder's scheduler is used, whatever its kind."""
    try:
        return _diffusers().DDIMScheduler.from_pretrained(str(root), subfolder="scheduler", local_files_only=True)
    except (OSError, ValueError, NotImplementedError) as error:
        raise BackboneError(f"{root}/scheduler cannot be loaded: {error}") from error


def _unet(root: Path, dtype: torch.dtype, variant: str | None) -> Any:
    unet = _part(root, "unet", _diffusers().AutoModel, dtype, variant)
    if not isinstance(unet, _diffusers().UNet2DModel) and not conditional(unet):
        raise BackboneError(f"{root}/unet is a {type(unet).__name__}: a UNet2DModel or UNet2DConditionModel is needed.")
    if unet.config.get("addition_embed_type") is not None:
        raise BackboneError(f"{root}: its UNet wants more than a prompt, as SDXL's does: take Stable Diffusion 1 or 2.")
    return unet


def _image_size(root: Path, stated: int | None, unet: Any, codec: Codec) -> int:
    if stated is None:
        raise BackboneError(f"{root} does not say its image size: set `image_size` in its block of params.yaml.")
    step = codec.factor * 2 ** (len(unet.config["block_out_channels"]) - 1)
    if stated % step:
        raise BackboneError(f"{root}: image_size {stated} must be a multiple of {step} for this model.")
    return stated


def _untrained(unet: Any, dtype: torch.dtype) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = type(unet).from_config(unet.config)
    return fresh if dtype == torch.float32 else fresh.to(dtype)


def _codec(root: Path, unet: Any, sidecar: dict[str, Any], dtype: torch.dtype, variant: str | None) -> Codec:
    width = unet.config["in_channels"]
    if (root / "vae").is_dir():
        vae = _part(root, "vae", _diffusers().AutoencoderKL, dtype, variant)
        if vae.config["latent_channels"] != width:
            raise BackboneError(
                f"{root}: the VAE makes {vae.config['latent_channels']} latent channels, the UNet takes {width}: "
                "they belong to different models."
            )
        return Codec(vae, 2 ** (len(vae.config["block_out_channels"]) - 1), 3)
    channels = sidecar.get("channels", 3)
    factor = sidecar.get("factor") or round((width / channels) ** 0.5)
    if channels * factor * factor != width:
        raise BackboneError(f"{root}: a UNet of {width} input channels needs a 'vae/' folder.")
    return Codec(None, factor, channels)


def _prompt(root: Path, unet: Any, variant: str | None) -> Tensor:
    """(1, L, C) embedding of the empty text, stored or made by the text encoder. Zeros would be another input."""
    stored = root / "empty_prompt.safetensors"
    if stored.is_file():
        try:
            (prompt,) = load_file(stored).values()
        except (ValueError, SafetensorError) as error:
            raise BackboneError(f"{stored} must hold one tensor, the embedding of the empty text: {error}") from error
        prompt = prompt if prompt.ndim == 3 else prompt[None]
    elif (root / "text_encoder").is_dir() and (root / "tokenizer").is_dir():
        prompt = _encode_empty(root, variant)
    else:
        raise BackboneError(
            f"{root}: a conditional UNet needs text_encoder/ and tokenizer/, or empty_prompt.safetensors."
        )
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
        raise NotInstalled(
            "the text encoder needs `pip install uld[sd]`, or store empty_prompt.safetensors."
        ) from error
    try:
        tokens = AutoTokenizer.from_pretrained(root / "tokenizer", local_files_only=True)(
            "", padding="max_length", truncation=True, return_tensors="pt"
        )
        encoder = CLIPTextModel.from_pretrained(
            root / "text_encoder", local_files_only=True, use_safetensors=True, variant=variant
        ).float()
    except (OSError, ValueError, SafetensorError) as error:
        raise BackboneError(f"{root}: its text encoder or tokenizer cannot be loaded: {error}") from error
    with torch.no_grad():
        return encoder(tokens.input_ids)[0]
