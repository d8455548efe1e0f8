"""Feature extraction with the small model of params.yaml, batched and stopped early, against one image at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import measure, report, run, same
from torch import Tensor

from uld.base import params, random, runtime
from uld.diffusion import training
from uld.diffusion.backbone import Backbone, Codec
from uld.diffusion.extractor import Extractor, ReadoutParams, name

TARGET = 30  # images a second on two cores
PARAMS = Path(__file__).parents[1] / "params.yaml"


def backbone(config: training.TrainParams) -> Backbone:
    """The model that the backbone stage would train, with random weights: its speed is the same."""
    torch.manual_seed(0)
    unet: Any = training.new_unet(config)
    unet.to(runtime.device()).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    codec = Codec(None, config.factor, config.channels)
    alphas = training._scheduler().alphas_cumprod.to(runtime.device())
    width = config.channels * config.factor**2
    return Backbone(unet, codec, alphas, "epsilon", None, config.image_size, width, "random weights")


@torch.no_grad()
def naive(extractor: Extractor, images: Tensor) -> dict[str, Tensor]:
    """One image and one timestep at a time through the whole UNet."""
    model, readout = extractor.backbone, extractor.params
    blocks: Any = model.unet.up_blocks
    caught: dict[tuple[int, int], Tensor] = {}
    parts: dict[str, list[Tensor]] = {key: [] for key in extractor.names()}
    hooks = [
        blocks[i].resnets[j].conv2.register_forward_hook(lambda m, x, y, at=(i, j): caught.update({at: y}))
        for i, j in readout.layers
    ]
    for image in images.split(1):
        latent = model.codec(image.to(runtime.device()) * 2 - 1)
        for t in readout.timesteps:
            alpha = extractor.alpha(t)
            model.unet(alpha.sqrt() * latent + (1 - alpha).sqrt() * extractor.noise[t], t)
            for layer in readout.layers:
                parts[name(layer, t)].append(caught[layer])
    for hook in hooks:
        hook.remove()
    return {key: torch.cat(part) for key, part in parts.items()}


def main(small: bool) -> None:
    count, repeats = (2, 1) if small else (64, 5)
    config = params.read(training.TrainParams, "backbones.tiny", PARAMS)
    readout = params.read(ReadoutParams, "readout", PARAMS)
    extractor = Extractor(backbone(config), readout, seed=0)
    size = config.image_size
    images = torch.from_numpy(random.rng(0, "bench-features").random((count, 3, size, size), dtype=np.float32))
    batch = runtime.batch_size()

    def ours() -> dict[str, Tensor]:
        parts = [extractor(part) for part in images.split(batch)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    seconds, found = measure({"uld": ours, "one image at a time": lambda: naive(extractor, images)}, repeats)
    for key in extractor.names():
        one, other = (found[way][key].cpu() for way in found)
        same(key, one, other, atol=1e-4 * float(other.abs().max()))
    where = f"{runtime.device()}, {runtime.threads()} threads"
    print(f"features: {count} images of {size} px, {len(readout.timesteps)} timesteps, batch {batch}, {where}")
    report("features", seconds, count, "images", "one image at a time")
    rate = count / seconds["uld"]
    print(f"features: target {TARGET} images/s: {'met' if rate >= TARGET else 'missed'} ({rate:.1f})")


if __name__ == "__main__":
    run(main)
