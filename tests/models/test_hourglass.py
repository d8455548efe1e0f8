"""The hourglass: the published sizes, what it computes, and what stays when a part of it is exchanged."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld.base.errors import ParamsError
from uld.base.params import build
from uld.models.hourglass import Block, Hourglass, HourglassParams, Level

SIZE, GRID, DIMS = 32, 8, 6
SIZES: dict[str, Any] = {"grid": GRID, "width": 32, "depth": 2, "dims": DIMS, "groups": 4}


def make(size: int = SIZE, **changes: Any) -> Hourglass:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Hourglass(size, **SIZES | changes)


def published() -> Hourglass:
    """As in the thesis and its author's code."""
    return Hourglass(256, grid=64, width=256, depth=4, dims=256, groups=32)


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def multiply_adds(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Those of the convolutions in each part of the model."""
    found: dict[str, int] = {}

    def count(part: str, layer: nn.Conv2d, said: Tensor) -> None:
        found[part] = found.get(part, 0) + said[0].numel() * layer.weight[0].numel()

    for name, part in model.named_children():
        for layer in filter(lambda one: isinstance(one, nn.Conv2d), part.modules()):
            layer.register_forward_hook(lambda one, _, said, name=name: count(name, one, said))
    with torch.device("meta"), torch.no_grad():
        model.to("meta")(x.to("meta"))
    return found


# --- sizes ---


def test_the_published_size() -> None:
    """8,396,545 parameters in the author's code, of which a block a level, 4 times 406,400, is never called."""
    assert sum(one.numel() for one in published().parameters()) == 8_396_545 - 4 * 406_400


def test_the_published_cost() -> None:
    """10.4 billion multiply-adds for a view of 256 pixels, 1.9 in the detector head and 2.2 in the descriptor head."""
    found = multiply_adds(published(), torch.empty(1, 3, 256, 256))
    shares = {part: round(count / 1e9, 1) for part, count in found.items()}
    assert (shares["detector_head"], shares["descriptor_head"]) == (1.9, 2.2)
    assert round(sum(found.values()) / 1e9, 1) == 10.4


@pytest.mark.parametrize("size", [2 * GRID, 4 * GRID])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, channels: int) -> None:
    model = make(size, channels=channels)
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
        (64, {}, r"network.grid 8 must be half or a quarter of the crop's side 64"),
        (8, {}, r"network.grid 8 must be half or a quarter of the crop's side 8"),
        (32, {"depth": 4}, r"network.grid 8 cannot be halved 4 times: lower network.depth"),
        (32, {"width": 48}, r"network.width 48 must be a multiple of 32, eight times network.groups"),
    ],
)
def test_sizes_that_do_not_fit(size: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        make(size, **changes)


def test_params_are_the_arguments() -> None:
    assert make(**vars(build(HourglassParams, SIZES, "network"))).about() == make().about()
    for wrong in ({"width": 4}, {"grid": 1}, {"depth": 0}, {"widths": [3]}):
        with pytest.raises(ParamsError, match="network"):
            build(HourglassParams, SIZES | wrong, "network")


# --- what it computes ---


def test_a_block_by_hand() -> None:
    """Of three convolutions each sees the one before; side by side, they are added to the input."""
    torch.manual_seed(0)
    x, block, wider = torch.randn(2, 8, 5, 5), Block(8, 8, 2), Block(8, 16, 2)
    for one, past in ((block, x), (wider, F.conv2d(F.relu(F.group_norm(x, 2)), wider.past[2].weight))):
        a, b, c = [step[2].weight for step in one.steps]
        first = F.conv2d(F.relu(F.group_norm(x, 2)), a, padding=1)
        second = F.conv2d(F.relu(F.group_norm(first, 2)), b, padding=1)
        third = F.conv2d(F.relu(F.group_norm(second, 2)), c, padding=1)
        torch.testing.assert_close(one(x), torch.cat([first, second, third], 1) + past)


def test_a_level_by_hand() -> None:
    """The level itself, and beside it half the size: there, down, the level below and up."""
    torch.manual_seed(0)
    level, x = Level(8, 2, 2), torch.randn(1, 8, 8, 8)
    assert isinstance(level.below, Level) and isinstance(level.below.below, Block)
    small = level.up(level.below(level.down(x.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))))
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(level(x), level.past(x) + large)


# --- parts that are exchanged ---


def test_heat_maps_of_landmarks_go_on_from_the_descriptor_head() -> None:
    model = make()
    many = model.with_channels(7)
    assert (model.channels, many.channels) == (1, 7) and many.about() == model.about() | {"channels": 7}
    assert torch.equal(many(images()).looks, model(images()).looks)
    assert many(images()).heat.shape == (2, 7, GRID, GRID) and model(images()).heat.shape == (2, 1, GRID, GRID)
    for name, value in many.detector_head[:-1].state_dict().items():
        assert torch.equal(value, model.descriptor_head.state_dict()[name])
    own = {id(one) for one in many.detector_head.parameters()}
    assert own.isdisjoint(map(id, many.descriptor_head.parameters()))  # a copy: each learns by itself


def test_heat_maps_that_are_kept_say_the_same() -> None:
    model = make(channels=5)
    kept = np.array([3, 0])
    fewer = model.kept_channels(kept)
    assert (model.channels, fewer.channels) == (5, 2) and fewer.about() == model.about() | {"channels": 2}
    now, before = fewer(images()), model(images())
    assert torch.equal(now.heat, before.heat[:, kept]) and torch.equal(now.looks, before.looks)
    assert all(one.requires_grad for one in fewer.parameters())
    assert {id(one) for one in model.parameters()}.isdisjoint(map(id, fewer.parameters()))
