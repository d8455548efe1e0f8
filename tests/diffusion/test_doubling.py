"""The quick form of the network computes what the plain one does, and is saved as the plain one."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D

from tests.diffusion.test_training import PARAMS
from uld.diffusion import training
from uld.diffusion.doubling import Doubling, quicken


@pytest.mark.parametrize(("channels", "out", "h", "w"), [(1, 1, 1, 1), (3, 5, 4, 7), (8, 8, 8, 8)])
def test_one_transposed_convolution(channels: int, out: int, h: int, w: int) -> None:
    """Values and gradients are those of doubling and convolving, at the border too."""
    torch.manual_seed(0)
    plain = Upsample2D(channels, use_conv=True, out_channels=out).double()
    x = torch.randn(2, channels, h, w, dtype=torch.float64, requires_grad=True)
    results: list[tuple[Any, ...]] = []
    for module in (plain, Doubling(plain)):
        y = module(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, plain.conv.weight, plain.conv.bias])))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_the_whole_network() -> None:
    plain = training.new_unet(PARAMS)
    quick = copy.deepcopy(plain)
    quicken(quick)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    assert any(isinstance(module, Doubling) for module in quick.modules())
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([0, 100, 900])
    torch.testing.assert_close(quick(x, t).sample, plain(x, t).sample, rtol=0, atol=1e-4)
