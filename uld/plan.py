"""What a run costs before it is begun: disk, memory and passes through the network (`uld doctor --plan`).

Bytes of the stores and floating-point operations of a pass are exact: they are counted on the model without its
weights. How often the stages read a view follows from params.yaml, in round numbers. Hours follow from the speed of a
matrix product, measured on the spot, of which the network is taken to reach `EFFICIENCY`.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uld import blocks, doctor, runtime
from uld.bootstrap import BootstrapParams
from uld.features import backbone, training
from uld.features.backbone import DTYPES, Backbone, Codec
from uld.features.extract import NetworkParams
from uld.features.extractor import Extractor
from uld.features.store import IN_FLIGHT

EFFICIENCY = 0.5  # of a matrix product's speed; benchmarks/bench_sd.py prints what this machine reaches
TOKENS = 77  # of the empty text
HANDS = 2  # views in which a round labels an image: as it is and mirrored
READS = 4  # times that a two-stage clustering reads an image in a hand


@dataclass(frozen=True)
class Pass:
    """One image in one view: FLOP to `encode` it and to `read` all timesteps, and how many numbers each gives."""

    encode: float
    read: float
    latent: int
    maps: dict[str, int]  # channels of each map
    cells: dict[str, int]  # places of each map


@dataclass(frozen=True)
class Way:
    """One way to keep what is read out. disk: bytes. flop: of the whole run. chosen: as params.yaml has it."""

    name: str
    disk: int
    flop: float
    chosen: bool


def one_pass(tree: dict[str, Any]) -> Pass:
    """Cost of one image in one view, counted on a model without weights.

    Raises:
        BackboneError: a pinned backbone is not there, or lacks a layer.
    """
    readout = replace(blocks.read("readout", tree), dtype="float32")
    model, vae, size = _hollow(tree)
    extractor = Extractor(model, readout, 0)
    latent = torch.empty(1, model.width, size // model.codec.factor, size // model.codec.factor, device="meta")
    # attention is spelled out as matrix products, because not every kernel of it is counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as reading:
            maps = extractor.features(latent)
        with FlopCounterMode(display=False) as encoding:
            if vae is not None:
                vae.encode(torch.empty(1, 3, size, size, device="meta"))
    return Pass(
        float(encoding.get_total_flops()),
        float(reading.get_total_flops()),
        latent.numel(),
        {name: value.shape[1] for name, value in maps.items()},
        {name: value[0, 0].numel() for name, value in maps.items()},
    )


def _hollow(tree: dict[str, Any]) -> tuple[Backbone, Any, int]:
    """The backbone of params.yaml without weights, its VAE or None, and the side of its images in pixels."""
    import diffusers

    block = blocks.read(f"backbones.{tree['backbone']}", tree)
    vae, prompt = None, None
    with torch.device("meta"):
        if isinstance(block, training.TrainParams):
            unet, factor = training.new_unet(block), block.factor
        else:
            root = backbone.fetch(block.path, block.revision)
            config = json.loads((root / "unet/config.json").read_text())
            kind = getattr(diffusers, config["_class_name"])
            unet = kind.from_config(config)
            if (root / "vae/config.json").is_file():
                vae = diffusers.AutoencoderKL.from_config(json.loads((root / "vae/config.json").read_text()))
                factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
            else:
                sidecar = root / backbone.SIDECAR
                about = json.loads(sidecar.read_text()) if sidecar.is_file() else {}
                factor = round((config["in_channels"] / about.get("channels", 3)) ** 0.5)
            if backbone.conditional(unet):
                prompt = torch.empty(1, TOKENS, config["cross_attention_dim"])
        alphas = torch.ones(training.TIMESTEPS)
    codec = Codec(vae, factor, 3)
    model = Backbone(unet, codec, alphas, "epsilon", prompt, block.image_size, unet.config["in_channels"], "")
    return model, vae, block.image_size


def ways(tree: dict[str, Any], one: Pass) -> Iterator[Way]:
    """The ways that there are, for the data set and the rounds of params.yaml."""
    images = doctor.images(tree)
    networks = {name: blocks.read(f"networks.{name}", tree) for name in tree["networks"]}
    reduction = blocks.read("reduce", tree)
    dims = 64 if reduction is None else reduction.dims
    views = images * sum(len(network.views) for network in networks.values())
    table = tree.get("aggregated") or {}
    rests = any(line["features"] in table for line in (*tree["rounds"].values(), *tree["variants"].values()))
    roots = {_root(tree, line) for line in tree["rounds"].values()}
    resting = list(table) or [name for name in sorted(roots) if tree["starts"][name]["head"] == "learned"]
    passes = [sum(_reads(tree, *one, images, some) for one in networks.items()) for some in ([], resting)]
    online, once = (views * one.encode + count * one.read for count in passes)
    latents = {network.keep == "latents" for network in networks.values()}
    wide = sum(one.maps[name] * one.cells[name] for name in one.maps)
    narrow = sum(min(dims, one.maps[name]) * one.cells[name] for name in one.maps)
    fill = views * (one.encode + one.read)
    kept = latents == {False}
    plain = [
        Way("features as they are (reduce: null)", 2 * views * wide, fill, kept and reduction is None),
        Way(f"features of {dims} channels (reduce)", 2 * views * narrow, fill, kept and reduction is not None),
        Way("latents (networks.*.keep: latents)", 2 * views * one.latent, online, latents == {True}),
    ]
    yield from (replace(way, chosen=way.chosen and not rests) for way in plain)
    below = next((way for way in plain if rests and way.chosen), plain[-1])  # what the maps are made of stays
    flop = once if below is plain[-1] else fill
    yield Way("and aggregated maps (aggregated)", below.disk + doctor.map_bytes(tree, resting), flop, rests)


def _root(tree: dict[str, Any], line: dict[str, str]) -> str:
    """The start that a round or row goes back to."""
    while line["start"] in tree["rounds"]:
        line = tree["rounds"][line["start"]]
    return line["start"]


def _reads(tree: dict[str, Any], name: str, network: NetworkParams, images: int, resting: list[str]) -> int:
    """How often a view of the network `name` is read by all stages behind it.

    Args:
        resting: starts whose aggregators rest: once for each view, never for rounds and rows that read what they made,
            which are all of theirs where params.yaml lets none rest yet.
    """
    own = {start for start in resting if blocks.read(f"starts.{start}", tree).features == name}
    total = len(own) * len(network.views) * images
    table = tree.get("aggregated") or {}
    for start in tree["starts"]:
        block = blocks.read(f"starts.{start}", tree)
        if block.features == name:
            total += images
            if isinstance(block, BootstrapParams):
                total += 2 * block.pairs * block.steps

    def reading(key: str) -> list[dict[str, Any]]:
        lines = [line for line in tree[key].values() if table.get(line["features"], line)["features"] == name]
        return [line for line in lines if not (line["features"] in resting if table else _root(tree, line) in resting)]

    for line in reading("rounds"):
        step: Any = blocks.read(f"steps.{line['step']}", tree)
        total += READS * HANDS * images + _drawn(step.train)
    return total + len(reading("variants")) * (READS * HANDS + len(network.views)) * images


def _drawn(train: Any) -> int:
    """Views that a round of training reads."""
    for field, views in (("pairs", 2), ("triplets", 3), ("views", 1)):
        if hasattr(train, field):
            return int(views * getattr(train, field) * train.steps)
    return 0


def speed(dtype: str) -> float:
    """FLOP/s of a matrix product on the device."""
    device = runtime.device()
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=DTYPES[dtype])
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def show(tree: dict[str, Any], free: int) -> bool:
    """Print the plan; False if what params.yaml chooses does not fit into `free` bytes of disk."""
    one = one_pass(tree)
    rate = EFFICIENCY * speed(tree["readout"]["dtype"])
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "disk", f"hours on {runtime.device().type}"):
        table.add_column(name, justify="left" if not name else "right")
    fits = True
    for way in ways(tree, one):
        fits = fits and not (way.chosen and way.disk > free)
        mark = "> " if way.chosen else "  "
        table.add_row(mark + way.name, _size(way.disk), f"{way.flop / rate / 3600:.2g}")
    console = Console(highlight=False)
    console.print(table)
    flight = IN_FLIGHT * runtime.batch_size() * 2 * sum(one.maps[name] * one.cells[name] for name in one.maps)
    said = (
        f"{doctor.images(tree)} images. GFLOP a view: {one.encode / 1e9:.3g} to encode, {one.read / 1e9:.3g} to read.",
        f"Hours are at {rate / 1e12:.2g} TFLOP/s, {EFFICIENCY:.0%} of a matrix product's; training comes on top.",
        f"Host memory: {_size(flight)} at most for features of {IN_FLIGHT} x {runtime.batch_size()} views: "
        "a batch is computed while one is written.",
        f"Free disk: {_size(free)}.",
    )
    for line in said:
        console.print(line, soft_wrap=True)
    return fits


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
