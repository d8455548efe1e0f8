"""A network of Stable Diffusion 1.5's size with random weights: images a second, FLOP/s, and the share of the peak.

The baseline is the way DIFT ships its call: eight copies of each image, in float32, through the VAE and the UNet up to
the end of the up block that is read. It gets the same noise for all eight, so that their mean must be our result.
`--compile` adds our passes with `ULD_COMPILE=1`, and says how long compiling took.
"""

import argparse
import contextlib
import copy
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from timing import Ways, measure, report
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uld.base import runtime, stop
from uld.diffusion import fewcells
from uld.diffusion.backbone import DTYPES, Backbone, Codec
from uld.diffusion.extractor import Extractor, ReadoutParams, name

LAYER, TIMESTEP, COPIES = (1, 2), 261, 8  # DIFT's up block and timestep for Stable Diffusion
DIFT, PEAK = "DIFT's call", "matrix products"
PRODUCTS = 5  # one after the other: long enough to be timed
TOKENS = 77
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def unet_config(small: bool) -> dict[str, Any]:
    """The published configuration of Stable Diffusion 1.5's UNet, or the same with narrow layers."""
    return {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [32, 32, 64, 64] if small else [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 32 if small else 768,
        "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }


def vae_config(small: bool) -> dict[str, Any]:
    """The published configuration of its VAE, or the same with narrow layers."""
    return {
        "block_out_channels": [32, 32, 32, 32] if small else [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def random_model(kind: Any, config: dict[str, Any], rng: torch.Generator) -> Any:
    """A float32 model on the runtime's device, its weights drawn there: nothing is built twice in memory."""
    with torch.device("meta"):
        model = kind.from_config(config)
    model.to_empty(device=runtime.device())
    for label, value in model.named_parameters():
        if value.ndim > 1:
            nn.init.normal_(value, std=value[0].numel() ** -0.5, generator=rng)
        else:
            nn.init.constant_(value, float(label.endswith("weight")))  # of a norm
    return model.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def backbone(size: int, small: bool) -> Backbone:
    """The whole model in float32, its prompt random: no text encoder runs in a pass."""
    rng = torch.Generator(runtime.device()).manual_seed(0)
    unet = random_model(UNet2DConditionModel, unet_config(small), rng)
    vae = random_model(AutoencoderKL, vae_config(small), rng)
    prompt = torch.randn(1, TOKENS, unet.config["cross_attention_dim"], generator=rng, device=runtime.device())
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod.to(runtime.device())
    return Backbone(unet, Codec(vae, 8, 3), alphas, "epsilon", prompt, size, 4, "random weights")


def cast(model: Backbone, dtype: torch.dtype) -> Backbone:
    """The same model in another dtype; in its own one, no copy."""
    if next(model.unet.parameters()).dtype == dtype:
        return model
    unet, codec = copy.deepcopy(model.unet).to(dtype), copy.deepcopy(model.codec).to(dtype)
    prompt = None if model.prompt is None else model.prompt.to(dtype)
    return replace(model, unet=unet, codec=codec, prompt=prompt)


def twin(model: Backbone) -> Backbone:
    """The same model once more, of the same tensors: no memory, and its blocks can be compiled."""

    def of(network: Any) -> Any:
        return copy.deepcopy(network, {id(t): t for t in itertools.chain(network.parameters(), network.buffers())})

    return replace(model, unet=of(model.unet), codec=of(model.codec))


class _Done(Exception):
    pass


@torch.no_grad()
def dift(model: Backbone, images: Tensor, noise: Tensor) -> Tensor:
    """The read layer (B, C, h, w), one image after the other, each the mean of eight copies."""
    blocks: Any = model.unet.up_blocks
    caught: list[Tensor] = []

    def stop(module: nn.Module, inputs: object, output: object) -> None:
        raise _Done

    read = (
        blocks[LAYER[0]]
        .resnets[LAYER[1]]
        .conv2.register_forward_hook(lambda module, inputs, output: caught.append(output.mean(0, keepdim=True)))
    )
    end = blocks[LAYER[0]].register_forward_hook(stop)
    alpha = model.alphas[TIMESTEP]
    assert model.prompt is not None
    for image in images.split(1):
        latent = model.codec(image.to(runtime.device()).repeat(COPIES, 1, 1, 1) * 2 - 1)
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        with contextlib.suppress(_Done):
            model.unet(noisy, TIMESTEP, encoder_hidden_states=model.prompt.expand(COPIES, -1, -1))
    read.remove()
    end.remove()
    return torch.cat(caught)


def products(dtype: torch.dtype, side: int) -> Callable[[], object]:
    """Large matrix products (side x side): what the device can do at best."""
    a = torch.randn(side, side, device=runtime.device(), dtype=dtype)
    return lambda: [a @ a for _ in range(PRODUCTS)]


def flops(compute: Callable[[], object]) -> float:
    """FLOP of a pass; attention is spelled out as matrix products, because not every kernel of it is counted."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())


def main(small: bool, size: int | None = None, compiled: bool = False) -> None:
    cuda = runtime.device().type == "cuda"
    size = size or (64 if small else 512 if cuda else 128)
    dtype = "bfloat16" if cuda else "float32"
    count, repeats = (2, 1) if small else (32, 5) if cuda else (32, 3)
    few = count if small or cuda else 4  # images that the baseline is timed on: it takes one at a time
    side = 256 if small else 8192 if cuda else 2048
    full = backbone(size, small)
    model = cast(full, DTYPES[dtype])
    readout = ReadoutParams((LAYER,), (TIMESTEP,), "add_noise", 50, dtype)  # type: ignore[arg-type]
    ours = twin(model)
    if not cuda:
        fewcells.quicken(ours.unet)
    faster = Extractor(twin(ours), readout, seed=0)
    extractor = Extractor(ours, readout, seed=0)
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    key = name(LAYER, TIMESTEP)
    latent = extractor.encode(images)
    ways: Ways = {
        "VAE + one timestep": lambda: extractor(images)[key],
        "cached latents": lambda: extractor.features(latent)[key],
        DIFT: lambda: dift(full, images[:few], extractor.noise[TIMESTEP]),
        PEAK: products(DTYPES[dtype], side),
    }
    if compiled:
        faster.compile_blocks()
        begun = time.perf_counter()
        faster(images)
        print(f"sd: compiled in {time.perf_counter() - begun:.0f} s")
        ways["VAE + one timestep, compiled"] = lambda: faster(images)[key]
    seconds, found = measure(ways, repeats)
    best = PRODUCTS * 2 * side**3 / seconds.pop(PEAK)
    seconds[DIFT] *= count / few
    for way in seconds.keys() - {DIFT}:
        off = (found[way][:few] - found[DIFT]).norm() / found[DIFT].norm()
        assert off < (0.1 if cuda else 1e-3), f"{way} is off by {off:.3g}"
    print(f"sd: {count} images of {size} px, {dtype}, {runtime.device()}, {runtime.threads()} threads")
    if few < count:
        print(f"sd: {DIFT} is timed on {few} of them")
    report("sd", seconds, count, "images", DIFT)
    if compiled:
        ratio = seconds["VAE + one timestep"] / seconds["VAE + one timestep, compiled"]
        print(f"sd: compiled: RATIO {ratio:.2f} x against VAE + one timestep")
    work = {
        "VAE + one timestep": flops(lambda: extractor(images[:1])),
        "cached latents": flops(lambda: extractor.features(latent[:1])),
    }
    print(f"sd: peak of a matrix product {best / 1e12:.3g} TFLOP/s")
    for way, one in work.items():
        rate = one * count / seconds[way]
        print(f"sd: {way}: {one / 1e9:.4g} GFLOP an image, {rate / 1e12:.3g} TFLOP/s, {rate / best:.1%} of the peak")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="narrow layers: only proves that the benchmark works")
    parser.add_argument("--size", type=int, help="side of the images in pixels (CUDA 512, CPU 128)")
    parser.add_argument("--compile", action="store_true", help="also run our passes compiled (ULD_COMPILE=1)")
    arguments = parser.parse_args()
    stop.run(lambda: main(arguments.small, arguments.size, arguments.compile))
