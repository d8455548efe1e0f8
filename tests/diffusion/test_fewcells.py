"""Convolutions as products: the same values, and only where they pay."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from uld.diffusion import backbone, fewcells
from uld.diffusion.extractor import Extractor, ReadoutParams


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 5)])
def test_the_convolution(bias: bool, last: bool, height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewcells, "WEIGHTS", 9 * 6 * 8)
    form = torch.channels_last if last else torch.contiguous_format
    conv = nn.Conv2d(6, 8, 3, padding=1, bias=bias, dtype=torch.float64).to(memory_format=form)
    x = torch.randn(4, 6, height, width, dtype=torch.float64).to(memory_format=form)
    want = conv(x)
    fewcells.quicken(conv)
    assert type(conv) is fewcells.FewCells
    torch.testing.assert_close(conv(x), want, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(fewcells, "CELLS", 4 * height * width - 1)
    monkeypatch.setattr(fewcells.F, "linear", lambda *_: pytest.fail("a product of many cells"))
    assert torch.equal(conv(x), want)


def test_other_convolutions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewcells, "WEIGHTS", 9 * 6 * 8)
    others = nn.Sequential(
        nn.Conv2d(6, 7, 3, padding=1),
        nn.Conv2d(6, 80, 1),
        nn.Conv2d(6, 8, 3),
        nn.Conv2d(6, 8, 3, padding="same"),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(12, 8, 3, padding=1, groups=2),
        nn.Conv2d(6, 8, 3, padding=1, dilation=2),
        nn.ConvTranspose2d(6, 8, 3, padding=1),
    )
    fewcells.quicken(others)
    assert not any(isinstance(one, fewcells.FewCells) for one in others)


def test_features_of_a_network_of_products(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def features() -> dict[str, Tensor]:
        params = ReadoutParams(((0, 0), (1, 1)), (20,), "add_noise", 50, "float32")
        return Extractor(copy.deepcopy(model), params, 0)(images)

    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    model = backbone.load(sd_folder)
    assert not any(isinstance(one, fewcells.FewCells) for one in model.unet.modules())
    plain = features()
    monkeypatch.setattr(fewcells, "WEIGHTS", 0)
    model = backbone.load(sd_folder)
    assert isinstance(model.unet.up_blocks[0].resnets[0].conv2, fewcells.FewCells)
    for name, value in features().items():
        torch.testing.assert_close(value, plain[name], atol=1e-5, rtol=1e-5)
