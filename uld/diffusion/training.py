"""Train a small pixel diffusion model on the crops: the embedded backbone, for when no Stable Diffusion is at hand.

Saved as a diffusers folder and read by the same loader as the real one. It learns from unlabelled training crops only,
and stops when the denoising error on held-out training images no longer falls quickly: the features of a network that
goes on grow specific to single images well before that error turns up.
"""

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from torch import Tensor

from uld.base import random, runtime
from uld.base.errors import BackboneError
from uld.base.params import CLOSED
from uld.base.scratch import scratch_folder
from uld.diffusion.backbone import Codec
from uld.diffusion.doubling import quicken
from uld.diffusion.pinned import SIDECAR
from uld.training.ema import Ema
from uld.training.fit import Figures, fit
from uld.training.held_out import HeldOut

TIMESTEPS = 1000
Timestep = Annotated[int, Field(ge=0, lt=TIMESTEPS)]


@dataclass(frozen=True, config=CLOSED)
class AugmentParams:
    """Random changes of a crop: mirror (probability), shift (share of the side), rotate (degrees), scale, contrast."""

    mirror: Annotated[float, Field(ge=0, le=1)]
    shift: Annotated[float, Field(ge=0)]
    rotate: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(ge=0, lt=1)]
    contrast: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=CLOSED)
class TrainParams:
    """A small UNet on space-to-depth pixels, epsilon prediction, squared-cosine schedule."""

    kind: Literal["train"]
    image_size: Annotated[int, Field(ge=16)]
    channels: Literal[1, 3]  # 1: grey
    factor: Annotated[int, Field(ge=1)]  # space-to-depth
    widths: Annotated[tuple[int, ...], Field(min_length=2)]
    layers_per_block: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]  # training crops kept in memory, at most
    holdout: Annotated[float, Field(gt=0, lt=1)]  # share of groups (images, where groups are unknown) to stop by
    batch: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=1)]  # steps until the learning rate is lr
    decay: Literal["constant", "cosine"]  # of the learning rate after that; cosine: it comes to 0 at max_steps
    ema: Annotated[float, Field(ge=0, lt=1)]
    max_timestep: Annotated[int, Field(ge=1, le=TIMESTEPS)]  # only low noise is read out: train where it counts
    check_timesteps: Annotated[tuple[Timestep, ...], Field(min_length=1)]  # noise levels of the held-out error
    check_every: Annotated[int, Field(ge=1)]
    min_gain: Annotated[float, Field(ge=0, lt=1)]  # a check counts as progress if the error fell by this share
    patience: Annotated[int, Field(ge=1)]  # checks without progress before training stops
    max_steps: Annotated[int, Field(ge=1)]
    augment: AugmentParams


def train(
    folder: Path, crops: Tensor, groups: NDArray[Any], params: TrainParams, seed: int, identity: str
) -> dict[str, float]:
    """Train and save a diffusers folder.

    Args:
        folder: where the model goes.
        crops: (n, 3, S, S) uint8 training crops, resized to the model's own size. groups: (n,) person, animal or clip
            of each; "" = unknown.
        identity: fingerprint of the crops, part of the resume key.

    Returns:
        Held-out and training denoising error (mean squared, 1 = no better than predicting zero), and the step kept.

    Raises:
        stop.Interrupted: asked to stop; state is kept. ULDError: the loss is not finite. BackboneError: sizes do not
            fit, there are too few images, or the model cannot be written.
    """
    task, p = _Task(crops, groups, params, seed), params
    average = copy.deepcopy(task.net).eval().requires_grad_(False)
    watch = HeldOut(
        average,
        lambda: task.error(average, task.held),
        every=p.check_every,
        patience=p.patience,
        min_gain=p.min_gain,
        name="backbone",
        of="held-out denoising error",
    )
    state = scratch_folder("backbone", params=_plain(p), seed=seed, crops=identity) / "state.pt"
    fit(
        task.net,
        [torch.optim.AdamW(task.net.parameters(), lr=p.lr, fused=True)],
        p.max_steps,
        task.step,
        state,
        "backbone",
        schedule=lambda number: rate(p, number),
        targets=[Ema(average, task.net, lambda number: min(p.ema, (number + 1) / (number + 11)))],
        watch=watch,
        keep_state=True,
        remedy="lower backbones.*.lr",
    )
    average.load_state_dict(watch.best)
    _save(folder, average, p)
    figures = {"heldout_error": watch.best_error, "step": watch.best_step}
    figures["train_error"] = task.error(average, task.kept)
    shutil.rmtree(state.parent)
    return figures


def rate(params: TrainParams, step: int) -> float:
    """Factor of the learning rate at a step: it rises for `warmup` steps and then stays, or falls along a cosine."""
    rising = min(1.0, (step + 1) / params.warmup)
    if params.decay == "constant":
        return rising
    return rising * (1 + math.cos(math.pi * step / params.max_steps)) / 2


class _Task:
    """The network, its images, and what a step learns from them."""

    def __init__(self, crops: Tensor, groups: NDArray[Any], params: TrainParams, seed: int) -> None:
        self.params, self.seed = params, seed
        self.device = runtime.device()
        self.codec = Codec(None, params.factor, params.channels)
        crops = _resized(crops, params.image_size)
        held = hold_out(groups, params.holdout, random.rng(seed, "holdout"))
        self.images = crops[torch.from_numpy(~held)]
        # of the images that are learned from, as many as are held out have their error told
        self.held, self.kept = crops[torch.from_numpy(held)], self.images[: int(held.sum())]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.torch_rng(seed, "backbone-init").initial_seed())
            self.net = new_unet(params)
        quicken(self.net)
        self.net.to(self.device)
        self.alphas = _scheduler().alphas_cumprod.to(self.device)

    def step(self, number: int) -> tuple[Tensor, Figures]:
        """Loss of the step `number` in [0, max_steps)."""
        p = self.params
        self.net.eval()  # it knows no dropout, and in training mode diffusers copies maps into another memory format
        rng = random.torch_rng(self.seed, "backbone-step", number)
        chosen = torch.randint(len(self.images), (p.batch,), generator=rng)
        images = augment(self.images[chosen].float() / 127.5 - 1, p.augment, rng)
        t = torch.randint(p.max_timestep, (p.batch,), generator=rng)
        return self._loss(self.net, self.codec(images), t, rng), {}

    @torch.no_grad()
    def error(self, net: UNet2DModel, images: Tensor) -> float:
        """Denoising error of a network on images (n, 3, R, R) uint8, by the same noise each time."""
        rng = random.torch_rng(self.seed, "backbone-check")
        total = 0.0
        latent = self.codec(images.float() / 127.5 - 1)
        for t in self.params.check_timesteps:
            parts = latent.split(64)
            losses = [self._loss(net, part, torch.full((len(part),), t), rng) * len(part) for part in parts]
            total += float(sum(losses)) / len(latent)
        return total / len(self.params.check_timesteps)

    def _loss(self, net: UNet2DModel, latent: Tensor, t: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared error of the predicted noise (DDPM, Ho et al. 2020, eq. 14)."""
        noise = torch.randn(latent.shape, generator=rng).to(self.device)
        alpha = self.alphas[t.to(self.device)][:, None, None, None]
        noisy = alpha.sqrt() * latent.to(self.device) + (1 - alpha).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return F.mse_loss(net(noisy, t.to(self.device)).sample, noise)


def _save(folder: Path, net: UNet2DModel, params: TrainParams) -> None:
    """Write the diffusers folder, and beside it what the loader must know of the codec."""
    net.to(memory_format=torch.contiguous_format)  # safetensors writes no other
    try:
        net.save_pretrained(folder / "unet")
    except SafetensorError as error:  # how a full disk shows there
        raise BackboneError(
            f"the model cannot be written to {folder}: {error}. Free the place and run again."
        ) from error
    _scheduler().save_pretrained(folder / "scheduler")
    about = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    p = params
    sidecar = {"image_size": p.image_size, "channels": p.channels, "factor": p.factor, "codec": "space_to_depth"}
    (folder / SIDECAR).write_text(json.dumps(sidecar, indent=1, sort_keys=True) + "\n")


def hold_out(groups: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(n,) bool: whole groups, at least one and never all, that make up about `share` of them."""
    if len(groups) < 2:
        raise BackboneError(
            "training a backbone needs at least 2 training images: add images or pin an existing model."
        )
    alone = np.array([f"\0{n}" for n in range(len(groups))])
    labels = np.where(groups == "", alone, groups.astype(str))
    if len(np.unique(labels)) == 1:
        labels = alone
    names = np.unique(labels)
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return np.isin(labels, rng.choice(names, count, replace=False))


def _resized(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, C, S, S) -> (n, C, R, R), as the extractor resizes them."""
    if images.shape[-1] == size:
        return images
    parts = [F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True) for part in images.split(256)]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts])


def augment(images: Tensor, params: AugmentParams, rng: torch.Generator) -> Tensor:
    """Randomly mirrored, shifted, rotated, scaled and re-lit copies of images (B, C, S, S) in [-1, 1]."""
    n = len(images)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng) * 2 - 1

    flip = torch.where(torch.rand(n, generator=rng) < params.mirror, -1.0, 1.0)
    angle = torch.deg2rad(uniform(n) * params.rotate)
    zoom = 1 + uniform(n) * params.scale
    shift = 2 * params.shift * uniform(n, 2)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    light = params.contrast * uniform(n, 2)[:, :, None, None, None]
    return (moved * (1 + light[:, 0]) + light[:, 1]).clamp(-1, 1)


def new_unet(params: TrainParams) -> UNet2DModel:
    """The network that is trained, with random weights: attention at the lowest resolution only.

    Raises:
        BackboneError: sizes that do not fit together.
    """
    step = params.factor * 2 ** (len(params.widths) - 1)
    if params.image_size % step or any(width % 16 for width in params.widths) or params.widths[-1] % 32:
        raise BackboneError(
            f"backbones.*: image_size {params.image_size} must be a multiple of {step} (factor x 2 for each width but "
            f"one), and widths {list(params.widths)} multiples of 16, the last of 32."
        )
    width = params.channels * params.factor**2
    down = ["DownBlock2D"] * (len(params.widths) - 1) + ["AttnDownBlock2D"]
    up = ["AttnUpBlock2D"] + ["UpBlock2D"] * (len(params.widths) - 1)
    return UNet2DModel(
        sample_size=params.image_size // params.factor,
        in_channels=width,
        out_channels=width,
        block_out_channels=params.widths,
        layers_per_block=params.layers_per_block,
        norm_num_groups=16,
        attention_head_dim=32,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
    )


def _scheduler() -> DDPMScheduler:
    return DDPMScheduler(TIMESTEPS, beta_schedule="squaredcos_cap_v2", clip_sample=False)


def _plain(params: TrainParams) -> dict[str, Any]:
    return {name: str(value) for name, value in vars(params).items()}
