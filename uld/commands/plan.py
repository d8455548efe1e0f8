"""What a run costs before it is begun: disk, memory and passes through the network (`uld doctor --plan`).

Bytes of the stores and floating-point operations of a pass are exact: they are counted on the model without its
weights. How often the stages read a view follows from params.yaml, in round numbers. Hours follow from the speed of a
matrix product, measured on the spot, of which the network is taken to reach `EFFICIENCY`. Host memory is the largest
table that a stage holds of what it reads or writes (`memory`).
"""

import os
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

from uld.base import runtime
from uld.base.errors import BackboneError
from uld.base.scratch import scratch_root
from uld.commands import blocks, doctor
from uld.diffusion import backbone, pinned, training
from uld.diffusion.backbone import DTYPES, Backbone, Codec
from uld.diffusion.building import IN_FLIGHT
from uld.diffusion.extract import StoreParams
from uld.diffusion.extractor import Extractor

EFFICIENCY = 0.5  # of a matrix product's speed; benchmarks/bench_sd.py prints what this machine reaches
TOKENS = 77  # of the empty text
HANDS = 2  # views in which a round labels an image: as it is and mirrored
READS = 4  # times that a two-stage clustering reads an image in a hand
SAMPLE = 16  # bytes a sampled value while a training-free head is fitted: four copies in float32
READ = 6  # bytes a number that is read: float16 as it is stored, float32 as it is used


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
    """One way to keep what is read out.

    stores: bytes of each store. memory: of the host, bytes. flop: of the whole run. chosen: as params.yaml has it.
    """

    name: str
    stores: tuple[int, ...]
    memory: int
    flop: float
    chosen: bool

    @property
    def disk(self) -> int:
        """Bytes of all stores."""
        return sum(self.stores)


@dataclass(frozen=True)
class Room:
    """Bytes that are free where stores are kept and where they are made, and the memory of this machine."""

    disk: int
    scratch: int
    memory: int


def one_pass(tree: dict[str, Any]) -> Pass:
    """Cost of one image in one view, counted on a model without weights.

    Raises:
        BackboneError: a pinned backbone is not there, cannot be read out, or lacks a layer.
    """
    readout = replace(blocks.read("readout", tree), dtype="float32")
    model = _hollow(tree)
    extractor, size, vae = Extractor(model, readout, 0), model.image_size, model.codec.vae
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


def _hollow(tree: dict[str, Any]) -> Backbone:
    """The backbone of params.yaml without weights."""
    block = blocks.read(f"backbones.{tree['backbone']}", tree)
    if isinstance(block, pinned.NoBackboneParams):
        raise BackboneError("`backbone` names a block of kind none: there are no features to plan for.")
    with torch.device("meta"):
        if isinstance(block, training.TrainParams):
            unet, codec = training.new_unet(block), Codec(None, block.factor, block.channels)
        else:
            unet, codec = backbone.outline(pinned.fetch(block.path, block.revision, configs=True), block.image_size)
        prompt = torch.empty(1, TOKENS, unet.config["cross_attention_dim"]) if backbone.conditional(unet) else None
        alphas = torch.ones(training.TIMESTEPS)
    return Backbone(unet, codec, alphas, "epsilon", prompt, block.image_size, unet.config["in_channels"], "")


def ways(tree: dict[str, Any], one: Pass) -> Iterator[Way]:
    """The ways that there are, for the data set and the rounds of params.yaml."""
    split, tree = doctor.split_of(tree), tree | {name: tree[name] or {} for name in ("aggregated", "rounds", "rows")}
    stores = {name: blocks.read(f"stores.{name}", tree) for name in tree["stores"]}
    reduction = blocks.read("reduce", tree)
    dims = 64 if reduction is None else reduction.dims
    views = [doctor.items(tree, store, split) for store in stores.values()]
    rests = any(_aggregated(tree, line) for line in (*tree["rounds"].values(), *tree["rows"].values()))
    resting = [line["start"] for line in tree["aggregated"].values()] or _with_trunk(tree)
    passes = [sum(_reads(tree, *one, split, some) for one in stores.items()) for some in ([], resting)]
    drawn = [_drawn(tree, some) for some in ([], resting)]
    encoded = [(sum(views) + new) * one.encode for new in drawn]
    online, once = (encode + count * one.read for encode, count in zip(encoded, passes, strict=True))
    fill, fill_once = (encode + (sum(views) + new) * one.read for encode, new in zip(encoded, drawn, strict=True))
    latents = {store.keep == "latents" for store in stores.values()}
    kept = latents == {False}

    def way(name: str, dims: int | None, latent: bool, flop: float, chosen: bool) -> Way:
        numbers = one.latent if latent else _numbers(one, dims)
        held = memory(tree, one, sum(split), dims, latent)
        return Way(name, tuple(2 * count * numbers for count in views), held, flop, chosen)

    own = None if reduction is None else dims
    plain = [
        way("features as they are (reduce: null)", None, False, fill, kept and own is None),
        way(f"features of {dims} channels (reduce)", dims, False, fill, kept and own is not None),
        way("latents (stores.*.keep: latents)", own, True, online, latents == {True}),
    ]
    yield from (replace(each, chosen=each.chosen and not rests) for each in plain)
    below = next((each for each in plain if rests and each.chosen), plain[-1])  # what the maps are made of stays
    flop = once if below is plain[-1] else fill_once
    maps = max((doctor.map_numbers(tree, name) for name in resting), default=0)
    written, read = runtime.batch_size() * _written(maps), READ * _ahead(tree) * maps
    held = max(below.memory + runtime.wanted_processes() * written, runtime.wanted_processes() * read)
    sizes = (*below.stores, *(doctor.map_bytes(tree, name) for name in resting))
    yield Way("and aggregated maps (aggregated)", sizes, held, flop, rests)


def _given(one: Pass, dims: int | None) -> dict[str, int]:
    """Channels of each map after a reduction to `dims`."""
    return {name: channels if dims is None else min(dims, channels) for name, channels in one.maps.items()}


def _numbers(one: Pass, dims: int | None) -> int:
    """Features of a view, after a reduction to `dims`."""
    return sum(channels * one.cells[name] for name, channels in _given(one, dims).items())


def memory(tree: dict[str, Any], one: Pass, images: int, dims: int | None, latents: bool) -> int:
    """Bytes of host memory, at most, for what stages hold of images, features and samples; the largest counts.

    Each of `ULD_NPROC` processes fills a store by batches of `ULD_BATCH` views, pixels in float32 and what is kept in
    float16, `IN_FLIGHT` of them, on a CPU the features of one in float32 too; sums up products of channels for the
    reduction; samples features for training-free descriptors; and reads batches, in training ahead of their use, with
    the crops beside them where it draws views anew. Libraries, the network and clustering come on top.

    Args:
        dims: channels of a reduction, None without one. latents: whether latents are kept in place of features.
    """
    given, features = _given(one, dims), _numbers(one, dims)
    samples = [0]
    for name in tree["starts"]:
        start = blocks.read(f"starts.{name}", tree)
        if start.reads == blocks.CROPS:
            continue
        spec = getattr(start, "projection", start)
        layers = {f"l{i}{j}" for i, j in spec.layers}
        channels = sum(count for key, count in given.items() if key.split("_")[0] in layers)
        samples.append(min(images, spec.images) * spec.points * channels)
    pixels = IN_FLIGHT * 12 * tree["roi"]["crop"] ** 2
    filling = runtime.batch_size() * (pixels + _written(one.latent if latents else features))
    reducing = 0 if dims is None else 8 * sum(count**2 for count in one.maps.values())
    on_gpu = latents and runtime.device().type == "cuda"  # where features are made and used
    reading = READ * _ahead(tree) * (one.latent if on_gpu else features) + _crops(tree, images)
    return runtime.wanted_processes() * max(filling, reducing, SAMPLE * max(samples), reading)


def _crops(tree: dict[str, Any], images: int) -> int:
    """Bytes of crops that training keeps to draw views of them, at most."""
    if not _drawing(tree):
        return 0
    from uld.sources import pixel_views  # takes seconds to import

    return pixel_views.kept_bytes(images, tree["roi"]["crop"])


def _written(numbers: int) -> int:
    """Bytes of host memory a view while a store is filled with `numbers` of it."""
    return IN_FLIGHT * 2 * numbers + (4 * numbers if runtime.device().type == "cpu" else 0)


def _ahead(tree: dict[str, Any]) -> int:
    """Views that a stage holds at a time, at most: a batch, or the coming steps of a training."""
    starts = [blocks.read(f"starts.{name}", tree) for name in tree["starts"]]
    trained = [start.train for start in starts if start.reads != blocks.CROPS and hasattr(start, "train")]
    trained += [_training(tree, line) for line in (tree["rounds"] or {}).values() if line["reads"] != blocks.CROPS]
    return max(runtime.batch_size(), (runtime.workers() + 1) * max(map(_views, trained), default=0))


def _training(tree: dict[str, Any], line: dict[str, str]) -> Any:
    """How a round trains."""
    return blocks.read(f"methods.{line['method']}.train", tree)


def _views(train: Any) -> int:
    """Views that a step of training reads."""
    for field, views in (("pairs", 2), ("triplets", 3), ("views", 1)):
        if hasattr(train, field):
            return int(views * getattr(train, field))
    return 0


def _aggregated(tree: dict[str, Any], line: dict[str, str]) -> dict[str, str] | None:
    """The aggregated start whose maps a round or row reads, if any."""
    found: dict[str, str] | None = tree["aggregated"].get(line["reads"].removeprefix(blocks.FEATURES))
    return found


def _root(tree: dict[str, Any], line: dict[str, str]) -> str:
    """The line of starts that a round or row goes back to."""
    while line["start"] not in tree["starts"]:
        line = tree["rounds"].get(line["start"]) or tree["aggregated"][line["start"]]
    return line["start"]


def _with_trunk(tree: dict[str, Any]) -> list[str]:
    """The starts of rounds that could be aggregated."""
    roots = sorted({_root(tree, line) for line in tree["rounds"].values()})
    return [name for name in roots if tree["starts"][name]["model"] == "heads"]


def _reads(tree: dict[str, Any], name: str, store: StoreParams, split: tuple[int, int], frozen: list[str]) -> int:
    """How often an image in a view is read from the store `name` by all stages behind it.

    Args:
        split: numbers of training and test images.
        frozen: starts whose trunk is frozen: it reads each view once, and rounds and rows that read what it makes read
            the store no more; they are all of that start's where params.yaml freezes none yet.
    """
    here, (train, test) = f"{blocks.FEATURES}{name}", split
    total = doctor.items(tree, store, split) * sum(tree["starts"][start]["reads"] == here for start in set(frozen))
    for start in (blocks.read(f"starts.{key}", tree) for key in tree["starts"]):
        if start.reads == here:
            total += train + (_views(start.train) * start.train.steps if hasattr(start, "train") else 0)
    for line in _reading(tree, "rounds", here, frozen):
        trained = _training(tree, line)
        total += READS * HANDS * train + _views(trained) * trained.steps
    found = train + test * (1 + blocks.read("evaluate", tree).warps.count)
    return total + len(_reading(tree, "rows", here, frozen)) * (READS * HANDS * train + found)


def _reading(tree: dict[str, Any], table: str, here: str, frozen: list[str]) -> list[dict[str, str]]:
    """Rounds or rows that read the store `here`, and not what one of the trunks of `frozen` makes of it."""
    lines = [line for line in tree[table].values() if (_aggregated(tree, line) or line)["reads"] == here]
    if tree["aggregated"]:
        return [line for line in lines if not (frozen and _aggregated(tree, line))]
    return [line for line in lines if _root(tree, line) not in frozen]


def _drawing(tree: dict[str, Any]) -> list[str]:
    """The starts on features whose views training draws anew."""
    lines = tree["starts"].items()
    return [name for name, line in lines if line.get("views") is not None and line["reads"] != blocks.CROPS]


def _drawn(tree: dict[str, Any], frozen: list[str]) -> int:
    """How many of these reads are of views that training draws anew: the network sees them whatever is stored.

    Args:
        frozen: as of `_reads`.
    """
    total = 0
    for name in _drawing(tree):
        start = blocks.read(f"starts.{name}", tree)
        rounds = [line for line in _reading(tree, "rounds", start.reads, frozen) if _root(tree, line) == name]
        total += sum(_views(one) * one.steps for one in (start.train, *(_training(tree, line) for line in rounds)))
    return total


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


def room() -> Room:
    """What this machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Room(doctor.free(doctor.STORES), doctor.free(scratch_root()), memory)


def verdict(found: list[Way], there: Room) -> str:
    """Why the way of params.yaml does not fit, and which ones would; empty if it does."""
    for way in found:
        if way.chosen and (lack := _lack(way, there)):
            fitting = "; ".join(other.name for other in found if not _lack(other, there))
            rest = "No way fits: take fewer views, layers, timesteps or images, or a smaller ULD_BATCH against memory."
            return f"Does not fit: {way.name} takes {lack}. {f'Would fit: {fitting}.' if fitting else rest}"
    return ""


def _lack(way: Way, there: Room) -> str:
    """What a way takes more of than there is; empty if it fits."""
    for need, have, what in (
        (way.disk, there.disk, f"disk for {doctor.STORES}"),
        (max(way.stores), there.scratch, "disk for unfinished stages (ULD_SCRATCH)"),
        (way.memory, there.memory, "host memory (ULD_BATCH)"),
    ):
        if need > have:
            return f"{_size(need)} of {what}, where there are {_size(have)}"
    return ""


def show(tree: dict[str, Any]) -> bool:
    """Print the plan; False if what params.yaml chooses does not fit onto this machine."""
    one, there, device = one_pass(tree), room(), runtime.device()
    gpus = runtime.wanted_processes() if device.type == "cuda" else 1  # processes on a CPU share its cores
    rate = EFFICIENCY * gpus * speed(tree["readout"]["dtype"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)  # fits into 80 columns
    for name in ("", "disk", "host memory", f"hours on {device.type}"):
        table.add_column(name, justify="right" if name else "left")
    found = list(ways(tree, one))
    for way in found:
        cells = (_size(way.disk), _size(way.memory), f"{way.flop / rate / 3600:.2g}")
        table.add_row(("> " if way.chosen else "  ") + way.name, *cells)
    console = Console(highlight=False)
    console.print(table)
    lacking = verdict(found, there)
    said = (
        f"{doctor.images(tree)} images. GFLOP a view: {one.encode / 1e9:.3g} to encode, {one.read / 1e9:.3g} to read.",
        f"Hours are at {rate / 1e12:.2g} TFLOP/s, {EFFICIENCY:.0%} of a matrix product's"
        f"{f' on each of {gpus} GPUs (ULD_NPROC)' if gpus > 1 else ''}; training comes on top.",
        f"Host memory is that of {runtime.wanted_processes()} x {runtime.batch_size()} views (ULD_NPROC, ULD_BATCH) "
        "and of samples; libraries, network and clustering come on top (docs/scale.md).",
        f"Free: {_size(there.disk)} of disk for {doctor.STORES}, {_size(there.scratch)} for unfinished stages "
        f"(ULD_SCRATCH). Host memory in all: {_size(there.memory)}.",
        lacking or "What params.yaml chooses (>) fits.",
    )
    for line in said:
        console.print(line, soft_wrap=True)
    return not lacking


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
