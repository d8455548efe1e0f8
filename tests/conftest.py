"""What every test gets: one thread, no accelerator, a scratch folder of its own; and a tiny backbone to share."""

import json
from pathlib import Path

import hypothesis
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is slow now and then
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The environment that uld/runtime.py reads, the same for every developer."""
    for name in ("ULD_BATCH", "ULD_WORKERS", "ULD_RESUME", "ULD_OFFLINE", "ULD_COMPILE", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ULD_DEVICE", "cpu")
    monkeypatch.setenv("ULD_THREADS", "1")
    monkeypatch.setenv("ULD_SCRATCH", str(tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="session")
def pixel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with a UNet2DModel of random weights: 32 px RGB, space-to-depth 2, widths 32 and 64."""
    folder = tmp_path_factory.mktemp("pixel")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DModel(
            sample_size=16,
            in_channels=12,
            out_channels=12,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=32,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "uld.json").write_text(json.dumps({"image_size": 32, "channels": 3, "factor": 2}))
    return folder
