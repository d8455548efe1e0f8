"""What is read out of the UNet against a forward pass written out block by block, and inversion against generation."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.diffusion import backbone
from uld.diffusion.backbone import Backbone
from uld.diffusion.extractor import CLEAN, Extractor, ReadoutParams, ddim_step

LAYERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@pytest.fixture(params=["sd", "v", "pixel"])
def model(request: pytest.FixtureRequest) -> Backbone:
    """Conditional, of noise and of velocity; and unconditional."""
    name = {"sd": "sd_folder", "v": "v_folder", "pixel": "pixel_folder"}[request.param]
    return backbone.load(request.getfixturevalue(name))


@torch.no_grad()
def decoder(unet: Any, x: Tensor, t: int, prompt: Tensor | None) -> Iterator[Tensor]:
    """What the second convolution of each decoder resnet gives, before the shortcut is added."""
    emb = unet.time_embedding.linear_2(F.silu(unet.time_embedding.linear_1(sinusoids(unet, t).expand(len(x), -1))))

    def residual(resnet: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        branch = resnet.conv1(F.silu(resnet.norm1(x)))
        branch = branch + resnet.time_emb_proj(F.silu(emb))[:, :, None, None]
        branch = resnet.conv2(F.silu(resnet.norm2(branch)))
        return branch, branch + (x if resnet.conv_shortcut is None else resnet.conv_shortcut(x))

    def attend(block: Any, i: int, x: Tensor) -> Tensor:
        if not hasattr(block, "attentions"):
            return x
        if prompt is None:
            return block.attentions[i](x)  # type: ignore[no-any-return]
        return block.attentions[i](x, encoder_hidden_states=prompt.expand(len(x), -1, -1)).sample  # type: ignore[no-any-return]

    x = unet.conv_in(x)
    skips = [x]
    for block in unet.down_blocks:
        for i, resnet in enumerate(block.resnets):
            x = attend(block, i, residual(resnet, x)[1])
            skips.append(x)
        for down in block.downsamplers or ():
            x = F.conv2d(x, down.conv.weight, down.conv.bias, stride=2, padding=1)
            skips.append(x)
    first, *others = unet.mid_block.resnets
    x = residual(first, x)[1]
    for i, resnet in enumerate(others):
        x = residual(resnet, attend(unet.mid_block, i, x))[1]
    for block in unet.up_blocks:
        for i, resnet in enumerate(block.resnets):
            branch, x = residual(resnet, torch.cat([x, skips.pop()], 1))
            yield branch
            x = attend(block, i, x)
        for up in block.upsamplers or ():
            x = up.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    assert not skips


def sinusoids(unet: Any, t: int) -> Tensor:
    """(1, C): cosines, then sines, of t at frequencies from 1 down to nearly 1/10,000 (DDPM; Vaswani et al. 2017)."""
    half = unet.config["block_out_channels"][0] // 2
    assert unet.config["flip_sin_to_cos"] and unet.config["freq_shift"] == 0
    angles = t * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])[None]


def test_every_layer_is_that_of_a_forward_pass_by_hand(model: Backbone) -> None:
    images = torch.rand(2, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(4))
    reader = Extractor(model, ReadoutParams(LAYERS, (0, 261, 999), "add_noise", 50, "float32"), 0)
    got = reader(images)
    latent = model.codec(images * 2 - 1)
    for t in (0, 261, 999):
        noisy = model.alphas[t].sqrt() * latent + (1 - model.alphas[t]).sqrt() * reader.noise[t]
        for (i, j), want in zip(LAYERS, decoder(model.unet, noisy, t, model.prompt), strict=True):
            torch.testing.assert_close(got[f"l{i}{j}_t{t}"], want, atol=1e-5, rtol=1e-5)


def round_trip(model: Backbone, steps: int) -> float:
    """Invert to timestep 500, generate from there, and how far the latent is off, relative to its norm."""
    last = 500
    reader = Extractor(model, ReadoutParams(LAYERS, (last,), "invert", steps, "float32"), 0)
    shape = (2, *reader.noise[last].shape[1:])
    begun = torch.randn(shape, generator=torch.Generator().manual_seed(4))  # of unit variance, as those of a real VAE
    visited: list[tuple[int, Tensor]] = []
    handle = model.unet.register_forward_pre_hook(lambda module, inputs: visited.append((inputs[1], inputs[0])))
    reader.features(begun)
    handle.remove()
    levels = [t for t, _ in visited]
    assert (levels[0], levels[-1], len(levels)) == (CLEAN, last, steps // 2 + 2)
    latent = visited[-1][1]
    with torch.no_grad():
        for t, target in zip(levels[:0:-1], levels[-2::-1], strict=True):
            latent = ddim_step(latent, reader.denoise(latent, t), reader.alpha(t), reader.alpha(target))
    assert float((visited[-1][1] - begun).norm() / begun.norm()) > 0.1  # it has been somewhere
    return float((latent - begun).norm() / begun.norm())


def test_generation_undoes_inversion(model: Backbone) -> None:
    """Up to the step's length, as inversion takes the noise at the source for that at the target (first order)."""
    coarse, fine = round_trip(model, 50), round_trip(model, 250)
    assert coarse < 0.06
    assert fine < 0.015 and fine < coarse / 3
