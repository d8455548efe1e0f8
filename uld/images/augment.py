"""Random changes of light, sharpness and cover of crops, in batches on the device.

All numbers are drawn beforehand from a numpy generator (`draw`), so that a batch is the same on every device and with
any number of workers. `photometric` then applies each kind of change to the whole batch at once, in a fixed order. A
change that is off takes no time.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from kornia import enhance, filters
from numpy.typing import NDArray
from torch import Tensor

from uld.images.light import BlurParams, CutoutParams, PhotometricParams

GREY = 0.5  # what a cut-out square shows
DARK = 1e-12  # spread of the channels that is taken at least: a grey pixel has no hue
PIECE = 2**18  # values that a CPU changes at a time: what is made in between stays in its cache
SHARP = 0.01  # pixels: a Gaussian of this width changes nothing, and a narrower one divides by 0

# 256 values of a Gaussian, equally likely and of unit variance: a random byte takes a fifth of the time of a normal
# number, and images have no more levels themselves
LEVELS = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)], np.float32)
LEVELS /= LEVELS.std()

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Draws:
    """What was drawn for B views of S x S pixels; None: that change is off.

    Attributes:
        brightness, contrast, saturation, gamma: (B,) factors and exponents. hue: (B,) radians.
        sigma: (B,) pixels, 0: this view is not blurred. radius: of the blur's kernel in pixels, the same for all.
        noise: (B, 3, S, S), what is added.
        covered: (B, S, S) bool, the pixels that a grey square covers.
    """

    brightness: Values | None = None
    contrast: Values | None = None
    saturation: Values | None = None
    hue: Values | None = None
    gamma: Values | None = None
    sigma: Values | None = None
    radius: int = 0
    noise: Values | None = None
    covered: NDArray[np.bool_] | None = None

    @property
    def any(self) -> bool:
        """Whether anything is on."""
        return any(isinstance(value, np.ndarray) for value in vars(self).values())

    def take(self, index: Any) -> "Draws":
        """Those of some of the views."""
        arrays = {name: value[index] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)


def draw(params: PhotometricParams, count: int, size: int, rng: np.random.Generator) -> Draws:
    """Draw the changes of `count` views of `size` pixels; a change that is off draws nothing."""

    def uniform(most: float) -> Values | None:
        return rng.uniform(-most, most, count).astype(np.float32) if most else None

    def factor(most: float) -> Values | None:
        by = uniform(most)
        return None if by is None else 1 + by

    gamma = np.log1p(params.gamma)
    exponent = uniform(gamma)
    return Draws(
        brightness=factor(params.brightness),
        contrast=factor(params.contrast),
        saturation=factor(params.saturation),
        hue=uniform(2 * np.pi * params.hue),
        gamma=None if exponent is None else np.exp(exponent),
        sigma=_sigmas(params.blur, count, rng),
        radius=min(int(np.ceil(3 * params.blur.sigma)), size - 1),  # the border is a reflection
        noise=_noise(params.noise, count, size, rng),
        covered=_covered(params.cutout, count, size, rng),
    )


def _sigmas(params: BlurParams, count: int, rng: np.random.Generator) -> Values | None:
    if not params.sigma or not params.probability:
        return None
    chosen = rng.random(count) < params.probability
    return np.where(chosen, np.maximum(rng.uniform(0, params.sigma, count), SHARP), 0).astype(np.float32)


def _noise(most: float, count: int, size: int, rng: np.random.Generator) -> Values | None:
    if not most:
        return None
    strength = rng.uniform(0, most, (count, 1, 1, 1)).astype(np.float32)
    levels = np.frombuffer(rng.bytes(count * 3 * size**2), np.uint8).reshape(count, 3, size, size)
    noise = LEVELS[levels]
    noise *= strength
    return noise


def _covered(params: CutoutParams, count: int, size: int, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    side = round(params.side * size)
    if not side or not params.probability:
        return None
    chosen = rng.random(count) < params.probability
    corner = rng.integers(0, size - side + 1, (2, count, 1))
    line = np.arange(size)
    x, y = (corner <= line) & (line < corner + side)
    return chosen[:, None, None] & x[:, None, :] & y[:, :, None]


def photometric(images: Tensor, draws: Draws) -> Tensor:
    """Apply what was drawn: light, colour, blur, noise, cover, in this order.

    Args:
        images: (B, 3, S, S) in [0, 1].

    Returns:
        (B, 3, S, S) in [0, 1]; the images themselves where everything is off.
    """
    if not draws.any or not len(images):
        return images
    step = max(1, PIECE // images[0].numel()) if images.device.type == "cpu" else len(images)
    parts = [slice(start, start + step) for start in range(0, len(images), step)]
    return torch.cat([_changed(images[part], draws.take(part)) for part in parts])


def _changed(images: Tensor, draws: Draws) -> Tensor:
    for change, values in (
        (enhance.adjust_brightness_accumulative, draws.brightness),  # the one of kornia's that multiplies
        (enhance.adjust_contrast_with_mean_subtraction, draws.contrast),
        (enhance.adjust_saturation_with_gray_subtraction, draws.saturation),
        (turn_hue, draws.hue),
        (enhance.adjust_gamma, draws.gamma),
    ):
        images = images if values is None else change(images, torch.from_numpy(values).to(images.device))
    images = _blurred(images, draws.sigma, draws.radius)
    if draws.noise is not None:
        images = (images + torch.from_numpy(draws.noise).to(images.device)).clamp_(0, 1)
    if draws.covered is not None:
        images = images.masked_fill(torch.from_numpy(draws.covered).to(images.device)[:, None], GREY)
    return images


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of images (B, 3, S, S) in [0, 1] by `turn` (B,) radians in the HSV cone.

    As `kornia.enhance.adjust_hue`, in a fourth of its time: highest and lowest channel stay, and each channel's place
    between them is a trapezoid over the hue (https://en.wikipedia.org/wiki/HSL_and_HSV, HSV to RGB alternative).
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    spread = high - torch.minimum(torch.minimum(red, green), blue)
    second = (blue - red).add_(spread, alpha=2)
    third = (red - green).add_(spread, alpha=4)
    sector = torch.where(red == high, green - blue, torch.where(green == high, second, third))
    sector = sector.div_(spread.clamp_min(DARK)).add_(turn[:, None, None], alpha=3 / math.pi)  # sixths of the circle
    out = torch.empty_like(images)
    for channel, start in enumerate((5, 3, 1)):
        below = (sector + start).remainder_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(high, below, spread, value=-1, out=out[:, channel])
    return out


def _blurred(images: Tensor, sigma: Values | None, radius: int) -> Tensor:
    """Only the views whose sigma (B,) is not 0 go through the filter."""
    chosen = np.flatnonzero(0 if sigma is None else sigma)
    if sigma is None or not len(chosen):
        return images
    widths = torch.from_numpy(sigma[chosen])[:, None].expand(-1, 2)  # kornia checks them: on the host it need not wait
    index = torch.from_numpy(chosen).to(images.device)
    return images.index_copy(0, index, filters.gaussian_blur2d(images[index], 2 * radius + 1, widths))
