"""Images of other sizes than the network was trained on."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from uld.base.errors import BackboneError
from uld.diffusion import backbone
from uld.diffusion.backbone import Backbone, Codec
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.pinned import PinnedParams, pin


def link(folder: Path, at: Path, size: int) -> Path:
    at.mkdir()
    reference = pin(PinnedParams("pinned", str(folder), None, None, size))
    (at / "reference.json").write_text(json.dumps(reference))
    return at


@pytest.mark.parametrize("size", [8, 12, 16, 20, 24, 40])
def test_any_multiple_of_what_the_network_halves(sd_folder: Path, tmp_path: Path, size: int) -> None:
    """It was made for 16; it halves twice, in the VAE and in the UNet. Crops of any size are resized to it."""
    model = backbone.load(link(sd_folder, tmp_path / "backbone", size))
    readout = ReadoutParams(((0, 1), (1, 0)), (20,), "add_noise", 50, "float32")
    reader = Extractor(model, readout, 0)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    assert reader.encode(images).shape == (2, 4, size // 2, size // 2)
    got = reader(images)
    assert got["l01_t20"].shape == (2, 64, size // 4, size // 4)
    assert got["l10_t20"].shape == (2, 32, size // 2, size // 2)
    assert all(value.isfinite().all() and value.std() > 0 for value in got.values())


@pytest.mark.parametrize("size", [10, 17, 18])
def test_no_other_size(sd_folder: Path, tmp_path: Path, size: int) -> None:
    with pytest.raises(BackboneError, match=f"image_size {size} must be a multiple of 4 for this model"):
        backbone.load(link(sd_folder, tmp_path / "backbone", size))


@pytest.fixture(scope="module")
def sd15() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet as published, without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )


@pytest.mark.parametrize("size", [256, 320, 448, 512, 640, 768])
def test_stable_diffusion_from_256_to_768(sd15: UNet2DConditionModel, size: int) -> None:
    """Shapes of all twelve layers; 64 is what the VAE (8) and the UNet (8) halve."""
    layers = tuple((i, j) for i in range(4) for j in range(3))
    prompt, alphas = torch.empty(1, 77, 768, device="meta"), torch.ones(1000, device="meta")
    model = Backbone(sd15, Codec(None, 8, 3), alphas, "epsilon", prompt, size, 4, "no weights")
    reader = Extractor(model, ReadoutParams(layers, (261,), "add_noise", 50, "float32"), 0)
    got = reader.features(torch.empty(1, 4, size // 8, size // 8, device="meta"))
    reader.close()
    widths, cells = (1280, 1280, 640, 320), [size // 8 // 2 ** (3 - i) for i in range(4)]
    assert {name: tuple(value.shape) for name, value in got.items()} == {
        f"l{i}{j}_t261": (1, widths[i], cells[i], cells[i]) for i, j in layers
    }
