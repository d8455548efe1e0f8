"""Where a diffusion model lies: a folder or a hub's name, pinned by the hash of its content."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from uld.artifacts.files import damaged, read_json
from uld.base import runtime
from uld.base.errors import BackboneError, ParamsError
from uld.base.params import CLOSED, build

SIDECAR = "uld.json"
REFERENCE = "reference.json"
NONE = "`backbone` names a block of kind none, so there are no features: set `stores` to {}, or choose another one."
PROMPT = "empty_prompt.safetensors"
CONFIGS = ["*.json", "unet/*.json", "vae/*.json", "scheduler/*.json"]  # what is fetched from a hub
PARTS = ["*.json", "unet/*", "vae/*", "scheduler/*", "text_encoder/*", "tokenizer/*", PROMPT]


@dataclass(frozen=True, config=CLOSED)
class PinnedParams:
    """An existing model, used as it is."""

    kind: Literal["pinned"]
    path: str  # a local diffusers folder, or a hub id (fetched only with ULD_OFFLINE=0)
    revision: str | None  # commit of a hub id; None for a folder
    variant: str | None  # "fp16" selects *.fp16.safetensors
    image_size: Annotated[int, Field(ge=8)]  # pixels the crop is resized to before encoding


@dataclass(frozen=True, config=CLOSED)
class NoBackboneParams:
    """No diffusion model: all models of the project read images, and `stores` is empty."""

    kind: Literal["none"]


@dataclass(frozen=True, config=CLOSED)
class Reference:
    """What reference.json holds: the hash of a model's content, and a `PinnedParams` of one that lies elsewhere."""

    fingerprint: str
    path: str | None = None
    revision: str | None = None
    variant: str | None = None
    image_size: Annotated[int, Field(ge=8)] | None = None


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


def seal(root: Path) -> dict[str, Any]:
    """The `reference.json` of a model that lies in the same folder: the hash of its content."""
    return {"fingerprint": fingerprint_of(root)}


def resolve(folder: Path) -> tuple[str, dict[str, Any]]:
    """Where the weights of an artifacts/backbone/ folder are, which may be there, and its reference, if it has one.

    Raises:
        ArtifactError: the reference is damaged. BackboneError: params.yaml asks for no diffusion model.
    """
    path = folder / REFERENCE
    if not path.exists():
        return str(folder), {}
    about = read_json(path, "backbone")
    if not about:
        raise BackboneError(NONE)
    try:
        reference = build(Reference, about, "reference", str(path))
    except ParamsError as error:
        raise damaged(path, "backbone", error) from error
    return reference.path or str(folder), asdict(reference)


def fetch(path: str, revision: str | None = None, configs: bool = False) -> Path:
    """The local folder of a path or hub id; the hub is asked only with `ULD_OFFLINE=0`.

    Args:
        configs: these are enough, so no weights come from the hub.

    Raises:
        BackboneError: no such folder; nothing in the local cache and no download; no `unet/` or `scheduler/` in it.
    """
    if Path(path).is_dir():
        root = Path(path)
    elif path.count("/") != 1 or path.startswith((".", "/", "~")):
        # looked at first: diffusers would blame the network for a missing folder
        raise BackboneError(f"backbone folder {path} does not exist: give a diffusers folder or a hub id 'owner/name'.")
    else:
        root = _snapshot(path, revision, CONFIGS if configs else PARTS)
    for part in ("unet", "scheduler"):
        if not (root / part).is_dir():
            raise BackboneError(f"{root} is no diffusers folder: it has no '{part}/' (needed: unet/, scheduler/).")
    return root


def _snapshot(name: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

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
    for path in files + [f for f in (root / SIDECAR, root / PROMPT) if f.is_file()]:
        digest.update(str(path.relative_to(root)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
