"""What every test gets: one thread, the run's device, a scratch folder of its own; and a tiny backbone to share."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from uld.diffusion import backbone
from uld.diffusion.backbone import Backbone
from uld.images import cut
from uld.images.crops import Crops

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is slow now and then
hypothesis.settings.load_profile("any machine")

# what a run leaves out: marker, and the option for it
DEARER = {"compiles": "--compile", "benchmark": "--benchmarks", "paper": "--paper"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="what the tests compute on: cpu, cuda or cuda:N (default: cpu)")
    parser.addoption("--compile", action="store_true", help="also compile the blocks of a network: half a minute")
    parser.addoption(
        "--moments", type=int, help="at how many random moments stages are interrupted, and killed: ten or so"
    )
    parser.addoption("--paper", action="store_true", help="also run preset `paper`, rounds and all: two minutes")
    parser.addoption("--benchmarks", action="store_true", help="also start each benchmark at its tiny size")


def pytest_configure(config: pytest.Config) -> None:
    """Fix what fixtures of a whole module or session find, before `_machine` does so for a test.

    Raises:
        UsageError: torch cannot compute on --device.
    """
    name = config.getoption("--device")
    if name != "cpu" and not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {name}: this torch sees no GPU: use cpu, or install a CUDA build.")
    os.environ |= {"ULD_DEVICE": name, "ULD_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the run did not ask for, and put the rest in an order that suits several processes.

    These take one file after the other. One of them makes what the tests of the pipeline share, with the first file;
    what else needs it comes last, so that no process waits.
    """
    out = [marker for marker, option in DEARER.items() if not config.getoption(option)]
    dropped = [item for item in items if any(map(item.get_closest_marker, out))]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    needing = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: 1 + (item.path in needing) if item.path.name != "test_repro.py" else 0)


@pytest.fixture(autouse=True)
def _machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The environment that uld/base/runtime.py reads, the same for every developer."""
    ours = ("ULD_BATCH", "ULD_WORKERS", "ULD_RESUME", "ULD_OFFLINE", "ULD_COMPILE", "ULD_NPROC", "ULD_IMAGE_MB")
    for name in (*ours, "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    about_the_cpu = request.node.get_closest_marker("cpu")
    monkeypatch.setenv("ULD_DEVICE", "cpu" if about_the_cpu else request.config.getoption("--device"))
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


@pytest.fixture
def pixel(pixel_folder: Path) -> Backbone:
    return backbone.load(pixel_folder)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Seven smooth random photographs of 40 x 48 pixels, and their boxes.csv; the last two are of the test split."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    names = [f"{n}.png" for n in range(7)]
    for name in names:
        small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(small, (48, 40), interpolation=cv2.INTER_CUBIC))
    boxes = pd.DataFrame({"image": names, "split": ["train"] * 5 + ["test"] * 2})
    boxes[["x1", "y1", "x2", "y2"]] = [5.5, 3.5, 37.5, 35.5]
    return folder, boxes


@pytest.fixture(scope="session")
def write_crops(
    photographs: tuple[Path, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Crops]:
    """Crops of the photographs, S pixels a side."""

    def write(size: int) -> Crops:
        path = tmp_path_factory.mktemp("crops") / "crops.zarr"
        cut.write(path, *photographs, margin=0.0, size=size)
        return Crops(path)

    return write


@pytest.fixture(scope="session")
def crops32(write_crops: Callable[[int], Crops]) -> Crops:
    return write_crops(32)
