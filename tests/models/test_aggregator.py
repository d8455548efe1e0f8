"""The aggregator against a plain loop over maps, and checkpoints in the published format written here."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uld.base.errors import ULDError
from uld.models.aggregator import Aggregator, published

GRID, WIDTH = 6, 8
SHAPES = {"l00_t5": (6, 3, 3), "l10_t5": (4, 6, 6), "l21_t5": (2, 12, 12)}
SHAPES |= {name.replace("t5", "t70"): shape for name, shape in SHAPES.items()}
NAMES, CHANNELS = list(SHAPES), [shape[0] for shape in SHAPES.values()]


def features(side: int | None = None) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {n: torch.randn(2, c, side or h, side or w, generator=rng) for n, (c, h, w) in SHAPES.items()}


def randomised(model: nn.Module) -> Any:
    rng = torch.Generator().manual_seed(1)
    for value in model.parameters():
        nn.init.normal_(value, generator=rng)
    return model


def aggregator(aggregate_at: Literal["native", "grid"]) -> Aggregator:
    return randomised(Aggregator(NAMES, CHANNELS, 4, WIDTH, 2, GRID, aggregate_at))


def resize(x: Tensor, side: int = GRID) -> Tensor:
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)


def bottleneck(state: dict[str, Tensor], prefix: str, x: Tensor, groups: int) -> Tensor:
    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        weight, scale, shift = (state[f"{prefix}.{name}.{part}"] for part in ("weight", "norm.weight", "norm.bias"))
        return F.group_norm(F.conv2d(x, weight, padding=padding), groups, scale, shift)

    return (conv("conv3", conv("conv2", conv("conv1", x).relu(), 1).relu()) + conv("shortcut", x)).relu()


def loop(
    state: dict[str, Tensor], maps: dict[str, Tensor], order: list[str], at: str, groups: int = 2, side: int = GRID
) -> Tensor:
    """Sum of w B(r): the i-th map has the i-th mixing weight, and the bottleneck of its layer."""
    layers = sorted({name.split("_")[0] for name in order})
    total = torch.zeros(())
    for weight, name in zip(state["mixing_weights"].softmax(0), order, strict=True):
        prefix = f"bottleneck_layers.{layers.index(name.split('_')[0])}.0"
        if at == "grid":
            total = total + weight * bottleneck(state, prefix, resize(maps[name], side), groups)
        else:
            total = total + weight * resize(bottleneck(state, prefix, maps[name], groups), side)
    return total


@pytest.mark.parametrize("at", ["native", "grid"])
def test_equals_a_loop_over_maps(at: Literal["native", "grid"]) -> None:
    model = aggregator(at)
    found = model(features())
    assert found.shape == (2, WIDTH, GRID, GRID)
    assert found.min() >= 0
    torch.testing.assert_close(found, loop(model.state_dict(), features(), NAMES, at), rtol=1e-4, atol=1e-5)


def test_native_and_grid_differ_only_where_sizes_do() -> None:
    native, grid = aggregator("native"), aggregator("grid")
    torch.testing.assert_close(native(features(GRID)), grid(features(GRID)))
    assert not torch.allclose(native(features()), grid(features()), atol=0.1)


def test_timesteps_share_a_bottleneck_but_not_a_weight() -> None:
    model = Aggregator(NAMES, CHANNELS, 4, WIDTH, 2, GRID)
    assert model.aggregate_at == "native"
    assert sum(1 for name, _ in model.named_parameters() if name.endswith("conv1.weight")) == 3
    torch.testing.assert_close(model.mixing_weights.softmax(0), torch.full((6,), 1 / 6))
    for name in ("l10_t5", "l10_t70"):
        model.zero_grad()
        chosen = {n: value if n == name else torch.zeros_like(value) for n, value in features().items()}
        model(chosen).sum().backward()
        moved = [bool(layer.get_submodule("0.conv1").weight.grad.any()) for layer in model.bottleneck_layers]
        assert moved == [False, True, False]


def test_mixing_weights_are_a_softmax_over_all_maps() -> None:
    """With bottlenecks that put out 1 everywhere, the sum of the weights remains; with one shut, its share is gone."""
    model = aggregator("native")
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.zeros_(value)
        if name.endswith("norm.bias"):
            nn.init.constant_(value, 0.5)
    torch.testing.assert_close(model(features()), torch.ones(2, WIDTH, GRID, GRID))
    shut: Any = model.bottleneck_layers[2].get_submodule("0")
    nn.init.constant_(shut.shortcut.norm.bias, -9)
    share = model.mixing_weights.softmax(0)[[2, 5]].sum().item()
    torch.testing.assert_close(model(features()), torch.full((2, WIDTH, GRID, GRID), 1 - share))


# --- published checkpoints ---


def save_checkpoint(path: Path, channels: tuple[int, ...] = (6, 4, 2), maps: int = 6, **more: Tensor) -> Path:
    """A file of random weights in the published format, by default for the layers and timesteps of SHAPES."""
    rng = torch.Generator().manual_seed(2)
    state = {"mixing_weights": torch.randn(maps, generator=rng)}
    for layer, c in enumerate(channels):
        sizes = {"conv1": (96, c, 1, 1), "conv2": (96, 96, 3, 3), "conv3": (384, 96, 1, 1), "shortcut": (384, c, 1, 1)}
        for name, size in sizes.items():
            prefix = f"bottleneck_layers.{layer}.0.{name}"
            state[f"{prefix}.weight"] = torch.randn(size, generator=rng)
            state[f"{prefix}.norm.weight"] = torch.randn(size[0], generator=rng)
            state[f"{prefix}.norm.bias"] = torch.randn(size[0], generator=rng)
    whole = {"step": 5000, "config": {"num_timesteps": 50}, "aggregation_network": state | more}
    torch.save(whole | {"optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3}]}}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writer of such a file."""
    return partial(save_checkpoint, tmp_path / "published.pt")


def test_published_weights_count_timesteps_first(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint()
    state = torch.load(path, weights_only=True)["aggregation_network"]
    mixed = [4, 0, 5, 2, 1, 3]
    model = published(path, [NAMES[i] for i in mixed], [CHANNELS[i] for i in mixed], GRID)
    assert not model.training
    assert model.aggregate_at == "grid"
    want = loop(state, features(), NAMES, "grid", groups=32)
    torch.testing.assert_close(model(features()), want, rtol=1e-4, atol=1e-4)


def test_published_clean_image_comes_first(checkpoint: Callable[..., Path]) -> None:
    names = ["l00_t60", "l00_t-1", "l00_t160"]
    model = published(checkpoint((3,), 3), names, [3, 3, 3], GRID)
    assert model.names == ["l00_t-1", "l00_t60", "l00_t160"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"maps": 12},
            r"mixing_weights is \[12\] in the file and \[6\] for 6 maps of 3 layers.*layers and timesteps of readout",
        ),
        ({"channels": (6, 5, 2)}, r"bottleneck_layers.1.0.conv1.weight is \[96, 5, 1, 1\].* and \[96, 4, 1, 1\] for"),
        ({"channels": (6, 4)}, r"bottleneck_layers.2.0.conv1.weight is not there in the file"),
        ({"channels": (6, 4, 2, 2)}, r"bottleneck_layers.3.0.conv1.weight is .* and not there for"),
        ({"extra": torch.ones(1)}, r"extra is \[1\] in the file and not there"),
    ],
)
def test_published_refuses_other_features(
    checkpoint: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ULDError, match=message):
        published(checkpoint(**change), NAMES, CHANNELS, GRID)


def test_published_refuses_other_files(tmp_path: Path) -> None:
    class Executed:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "some.pt"
    contents: list[Any] = [
        3,
        {"step": 1},
        torch.ones(3),
        {"aggregation_network": torch.ones(3)},
        {"config": Executed()},
    ]
    contents.append({"aggregation_network": {"mixing_weights": 1}})
    for content in contents:
        torch.save(content, path)
        with pytest.raises(ULDError, match=r"some.pt is no checkpoint .*published to null"):
            published(path, NAMES, CHANNELS, GRID)
    assert not (tmp_path / "executed").exists()
    for raw in (b"", b"some text", path.read_bytes()[:200], None):
        path.unlink() if raw is None else path.write_bytes(raw)
        with pytest.raises(ULDError, match=rf"some.pt is {'missing' if raw is None else 'no checkpoint'}"):
            published(path, NAMES, CHANNELS, GRID)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_published_refuses_weights_that_are_not_finite(checkpoint: Callable[..., Path], value: float) -> None:
    broken = {"bottleneck_layers.1.0.conv3.norm.bias": torch.full((384,), value)}
    with pytest.raises(ULDError, match=r"published.pt is damaged, bottleneck_layers.1.0.conv3.norm.bias is not finite"):
        published(checkpoint(**broken), NAMES, CHANNELS, GRID)
