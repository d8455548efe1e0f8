"""The plain encoder: its sizes, what a cell sees of the image, and what stays when a part of it is exchanged."""

from typing import Any

import pytest
import torch
from torch import Tensor

from uld.base.errors import ParamsError
from uld.base.params import build
from uld.models.encoder import Encoder, EncoderParams

SIZE, GRID, DIMS = 32, 8, 6
SIZES: dict[str, Any] = {"grid": GRID, "widths": [8, 12, 12], "dims": DIMS, "hidden": 8, "groups": 4}


def make(size: int = SIZE, **changes: Any) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Encoder(size, **SIZES | changes)


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


# --- sizes ---


@pytest.mark.parametrize(("size", "widths"), [(8, [4]), (16, [4, 8]), (32, [8, 12]), (64, [4, 8, 12, 12, 16])])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, widths: list[int], channels: int) -> None:
    model = make(size, widths=widths, channels=channels)
    assert (model.grid, model.dims, model.channels, model.reads_pixels) == (GRID, DIMS, channels, True)
    maps = model(images(2, size))
    assert maps.looks.shape == (2, DIMS, GRID, GRID) and maps.heat.shape == (2, channels, GRID, GRID)
    assert maps.code is None
    torch.testing.assert_close(maps.looks.norm(dim=1), torch.ones(2, GRID, GRID))
    torch.testing.assert_close(model.describe(images(2, size)), maps.looks)
    assert 0.01 < maps.heat.mean() < 0.1  # it begins with few points, as in the targets


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (48, {}, r"network.grid 8 must be the crop's side 48 over a power of two, which takes at most 3 halvings"),
        (4, {}, r"network.grid 8 must be the crop's side 4 over"),
        (33, {}, r"the crop's side 33 over"),
        (64, {"widths": [8, 8]}, r"the crop's side 64 over a power of two, which takes at most 2 halvings"),
        (32, {"widths": [8, 10]}, r"network.widths and hidden must be multiples of network.groups, 4"),
        (32, {"hidden": 6}, r"network.widths and hidden must be multiples of network.groups, 4"),
    ],
)
def test_sizes_that_do_not_fit(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        make(size, **changes)


def test_params_are_the_arguments() -> None:
    assert make(**vars(build(EncoderParams, SIZES, "network"))).about() == make().about()
    for wrong in ({"widths": []}, {"grid": 1}, {"widths": [0]}, {"depth": 3}):
        with pytest.raises(ParamsError, match="network"):
            build(EncoderParams, SIZES | wrong, "network")


# --- what it computes ---


def reach(model: Encoder) -> Tensor:
    """(SIZE, SIZE) bool: the pixels that the convolutions of the trunk show to the middle cell.

    Without the norms between them, which see the whole image.
    """
    convolutions = [layer for layer in model.trunk if isinstance(layer, torch.nn.Conv2d)]
    seen = images(1).requires_grad_()
    x = seen
    for layer in convolutions:
        x = torch.nn.functional.conv2d(x, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation)
    x[0, :, GRID // 2, GRID // 2].sum().backward()
    assert seen.grad is not None
    return seen.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize(("dilated", "cells"), [(0, 0), (1, 1), (2, 1 + 2)])
def test_a_cell_sees_as_far_as_the_dilations_say(dilated: int, cells: int) -> None:
    """Two halvings see 10 pixels from -3 to 6 about a cell of 4; dilations 1, 2, ... see as many cells farther."""
    found = reach(make(widths=[8, 8] + [8] * dilated))
    first, last = 4 * (GRID // 2) - 3 - 4 * cells, 4 * (GRID // 2) + 6 + 4 * cells
    lines = torch.zeros(SIZE, dtype=torch.bool)
    lines[max(first, 0) : last + 1] = True
    assert torch.equal(found.any(0), lines) and torch.equal(found.any(1), lines)


# --- parts that are exchanged ---


def test_other_channels_leave_descriptors_alone() -> None:
    model = make()
    many = model.with_channels(7)
    assert (model.channels, many.channels) == (1, 7) and many.about() == model.about() | {"channels": 7}
    found, want = many(images()), model(images())
    assert torch.equal(found.looks, want.looks)
    assert found.heat.shape == (2, 7, GRID, GRID) and want.heat.shape == (2, 1, GRID, GRID)
    before, after = model.state_dict(), many.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "detector_head.3.weight",
        "detector_head.3.bias",
    }
