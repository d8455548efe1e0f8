"""Read features out of a diffusion UNet: which layers, at which noise levels, reached how."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from uld.base import random
from uld.base.errors import BackboneError
from uld.base.params import CLOSED
from uld.diffusion import compiled
from uld.diffusion.backbone import Backbone

CLEAN = -1  # the "timestep" of the noise-free latent, alpha = 1


@dataclass(frozen=True, config=CLOSED)
class ReadoutParams:
    """Layers x timesteps of a UNet and the way to reach them.

    A layer (i, j) is the output of the second convolution of `up_blocks[i].resnets[j]`, before the shortcut is added:
    the tensor that Diffusion Hyperfeatures (NeurIPS 2023) reads. Policies: `add_noise` (DIFT, NeurIPS 2023), `clean`,
    `invert` (deterministic DDIM inversion with an empty prompt).
    """

    layers: tuple[tuple[int, int], ...]
    timesteps: tuple[Annotated[int, Field(ge=CLEAN)], ...]
    policy: Literal["add_noise", "clean", "invert"]
    inversion_steps: Annotated[int, Field(ge=1)]  # DDIM steps over the whole schedule; used by `invert` only
    dtype: Literal["float32", "float16", "bfloat16"]


class _Stop(Exception):
    """Not an error: ends a forward pass at the deepest hook."""


class Extractor(nn.Module):
    """Images to feature maps. Deterministic: the noise is one fixed tensor per timestep, shared by all images."""

    def __init__(self, backbone: Backbone, params: ReadoutParams, seed: int) -> None:
        """Hook the layers.

        Raises:
            BackboneError: a layer or timestep that this model or policy does not have.
        """
        super().__init__()
        self.backbone, self.params = backbone, params
        self.unet, self.codec = backbone.unet, backbone.codec
        self.dtype = next(backbone.unet.parameters()).dtype
        self._caught: dict[tuple[int, int], Tensor] = {}
        self._compiled: list[nn.Module] = []
        self._schedule = _inversion_timesteps(len(backbone.alphas), params.inversion_steps)
        self._check_timesteps()
        self._hook()
        side = backbone.image_size // backbone.codec.factor
        shape = (1, int(backbone.width), side, side)
        self.noise = {
            t: torch.randn(shape, generator=random.torch_rng(seed, "diffusion-noise", t + 1)).to(backbone.alphas.device)
            for t in params.timesteps
        }

    def names(self) -> list[str]:
        """Array names of the features, timestep by timestep: `l<block><resnet>_t<timestep>`."""
        return [name(layer, t) for t in self.params.timesteps for layer in self.params.layers]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features {name: (B, C, h, w) float32} of images (B, 3, S, S) in [0, 1], resized to the model's own size."""
        return self.features(self.encode(images))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """What the UNet denoises, (B, C, s, s) float32, of images as above."""
        device = self.backbone.alphas.device
        images = images.to(device) * 2 - 1
        size = self.backbone.image_size
        if images.shape[-1] != size:
            images = nn.functional.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
        latent: Tensor = self.codec(images.to(self.dtype, memory_format=torch.channels_last))
        return latent.float()

    @torch.no_grad()
    def features(
        self,
        latent: Tensor,
        timesteps: Collection[int] | None = None,
        keep: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Features of what `encode` gives.

        Args:
            timesteps: those that are wanted; None: all.
            keep: what is kept of the features of each timestep, as soon as they are there; None: all.
        """
        wanted = [t for t in self.params.timesteps if timesteps is None or t in timesteps]
        keep = keep or (lambda found: found)
        if self.params.policy == "invert":
            return self._invert(latent, wanted, keep)
        out: dict[str, Tensor] = {}
        for t in wanted:
            alpha = self.alpha(t)
            noisy = (
                latent if self.params.policy == "clean" else alpha.sqrt() * latent + (1 - alpha).sqrt() * self.noise[t]
            )
            out |= keep(self._read(noisy, t))
        return out

    def alpha(self, t: int) -> Tensor:
        """Cumulative alpha of timestep t; 1 for the clean latent."""
        return self.backbone.alphas.new_ones(()) if t == CLEAN else self.backbone.alphas[t]

    def denoise(self, latent: Tensor, t: int) -> Tensor:
        """The noise (B, C, h, w) that the model sees in `latent` at timestep t, whatever its prediction type."""
        kwargs = {}
        if self.backbone.prompt is not None:
            kwargs["encoder_hidden_states"] = self.backbone.prompt.expand(len(latent), -1, -1)
        out = self.unet(latent.to(self.dtype), t, **kwargs).sample.float()
        return to_epsilon(out, latent, self.alpha(t), self.backbone.prediction_type)

    def _read(self, latent: Tensor, t: int) -> dict[str, Tensor]:
        with self._catch(stop=True):
            self.denoise(latent, t)
        return self._named(t)

    def _named(self, t: int) -> dict[str, Tensor]:
        return {name(layer, t): self._caught[layer].float() for layer in self.params.layers}

    @contextlib.contextmanager
    def _catch(self, stop: bool) -> Iterator[None]:
        """Let the hooks work; outside, they leave the UNet to other users, another extractor for one."""
        self._caught.clear()
        self._catching, self._stop = True, stop
        try:
            with contextlib.suppress(_Stop):
                yield
        finally:
            self._catching = False

    def _invert(
        self, latent: Tensor, wanted: list[int], keep: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """DDIM inversion: each call is conditioned on the timestep that the latent is at (the source)."""
        out: dict[str, Tensor] = {}
        last = max(wanted)
        for source, target in zip(self._schedule, self._schedule[1:], strict=False):
            if source == last:
                break
            with self._catch(stop=False):
                noise = self.denoise(latent, source)
            if source in wanted:
                out |= keep(self._named(source))
            latent = ddim_step(latent, noise, self.alpha(source), self.alpha(target))
        return out | keep(self._read(latent, last))

    def _hook(self) -> None:
        blocks: Any = self.unet.up_blocks
        order = [(i, j) for i, block in enumerate(blocks) for j in range(len(block.resnets))]
        unknown = [layer for layer in self.params.layers if layer not in order]
        if unknown:
            raise BackboneError(f"layers {unknown} do not exist: this UNet has (block, resnet) {order}.")
        if not self.params.layers:
            raise BackboneError("readout.layers is empty: name at least one (block, resnet).")
        deepest = max(self.params.layers, key=order.index)
        self._catching, self._stop = False, True

        def catch(layer: tuple[int, int]) -> Callable[[nn.Module, object, Tensor], None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                if self._catching:
                    self._caught[layer] = output
                    if layer == deepest and self._stop:
                        raise _Stop

            return hook

        self._read_blocks = [blocks[i].resnets[j] for i, j in self.params.layers]
        compiled.restore(self._read_blocks)  # another extractor may have compiled them: hooks inside would not run
        self._handles = [blocks[i].resnets[j].conv2.register_forward_hook(catch((i, j))) for i, j in self.params.layers]

    def compile_blocks(self) -> None:
        """Compile the blocks of the UNet and the VAE that are not read. It is the caller who looks up `ULD_COMPILE`."""
        self._compiled = compiled.compile_blocks([self.unet, self.codec], self._read_blocks)

    def close(self) -> None:
        """Take the hooks off and restore what was compiled, so that the UNet can be used (and trained) as before."""
        for handle in self._handles:
            handle.remove()
        compiled.restore(self._compiled)

    def _check_timesteps(self) -> None:
        count = len(self.backbone.alphas)
        wrong = [t for t in self.params.timesteps if t >= count]
        if self.params.policy == "invert":
            wrong = [t for t in self.params.timesteps if t not in self._schedule]
        if wrong or not self.params.timesteps:
            allowed = self._schedule if self.params.policy == "invert" else f"0..{count - 1}, {CLEAN} = clean"
            raise BackboneError(f"timesteps {wrong or 'empty'}: policy '{self.params.policy}' visits {allowed}.")


def name(layer: tuple[int, int], t: int) -> str:
    """Array name of layer (block, resnet) at timestep t."""
    return f"l{layer[0]}{layer[1]}_t{t}"


def to_epsilon(output: Tensor, latent: Tensor, alpha: Tensor, prediction_type: str) -> Tensor:
    """A UNet's output as predicted noise. `alpha` is the cumulative alpha of its timestep (scalar).

    epsilon: as is; v_prediction: sqrt(alpha) v + sqrt(1 - alpha) x_t (Salimans & Ho 2022); sample: from x_0.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha.sqrt() * output + (1 - alpha).sqrt() * latent
    if prediction_type == "sample":
        return (latent - alpha.sqrt() * output) / (1 - alpha).sqrt().clamp_min(1e-4)
    raise BackboneError(f"prediction_type '{prediction_type}' is unknown: epsilon, v_prediction or sample.")


def ddim_step(latent: Tensor, noise: Tensor, alpha: Tensor, alpha_next: Tensor) -> Tensor:
    """One deterministic DDIM update (Song et al. 2021, eq. 12 with eta = 0) between any two noise levels."""
    clean = (latent - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    return alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * noise


def _inversion_timesteps(count: int, steps: int) -> list[int]:
    """-1, 0, stride, 2 stride, ...: the noise levels an inversion passes, the clean latent first."""
    return [CLEAN, *range(0, count, max(1, count // steps))]
