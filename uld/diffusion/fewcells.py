"""On a CPU: 3 x 3 convolutions of many channels over few cells as matrix products.

A convolution there lays its weights out anew at every call. For the deep layers of Stable Diffusion, whose weights are
many and whose cells are few, that takes several times as long as the work itself (`benchmarks/bench_sd.py`). Values are
those of the convolution up to rounding.
"""

import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS, CELLS = 2**23, 2048  # from so many weights on, and up to so many cells of a batch, the product is faster


class FewCells(nn.Conv2d):
    """A 3 x 3 convolution of stride 1 and padding 1, (B, C, h, w) -> (B, O, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution: as one product if B h w is at most `CELLS`."""
        batch, channels, height, width = input.shape
        if batch * height * width > CELLS:
            return super().forward(input)
        padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, h, w, C, 3, 3)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)  # no copy if it is channels last
        return F.linear(rows, weight, self.bias).view(batch, height, width, -1).permute(0, 3, 1, 2)


def quicken(network: nn.Module) -> None:
    """Let the convolutions of a network that are large enough be `FewCells`; parameters and hooks stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _suits(module):
            module.__class__ = FewCells


def _suits(conv: nn.Conv2d) -> bool:
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    return plain and conv.groups == 1 and conv.padding_mode == "zeros" and conv.weight.numel() >= WEIGHTS
