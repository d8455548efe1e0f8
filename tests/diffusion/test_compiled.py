"""Compiled blocks give what plain ones give, and leave hooks, other users and training alone."""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler, TritonMissing

from uld.base import imports
from uld.base.errors import ULDError
from uld.diffusion import extract
from uld.diffusion.backbone import Backbone
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.images.crops import Crops

READOUT = ReadoutParams(((0, 1), (1, 0)), (20, 300), "add_noise", 50, "float32")
ROOT = Path(__file__).parents[2]


def _compiler() -> bool:
    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


needs_compiler = pytest.mark.skipif(not _compiler(), reason="torch.compile needs a C++ compiler")


@pytest.fixture(autouse=True)
def _counted() -> Iterator[None]:
    counters.clear()
    yield
    torch._dynamo.reset()


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def near(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.compiles
@needs_compiler
@pytest.mark.filterwarnings("ignore")  # of torch's own
def test_the_same_features_for_any_batch_and_thread(sd: Backbone) -> None:
    """Compiled once, and no more for another batch or thread."""
    reader = Extractor(sd, READOUT, 0)
    want = {count: reader(images(count)) for count in (1, 2, 3)}
    reader.compile_blocks()
    near(reader(images(2)), want[2])
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs < 12 and not counters["graph_break"]
    near(reader(images(3)), want[3])
    near(reader(images(1)), want[1])
    with ThreadPoolExecutor(1) as pool:
        near(pool.submit(reader, images(3)).result(), want[3])
    assert counters["stats"]["unique_graphs"] == graphs


def plain(model: Backbone) -> bool:
    return not any("forward" in vars(module) for part in (model.unet, model.codec) for module in part.modules())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` without the step that takes long: what is traced runs as it is."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.usefixtures("quick")
def test_another_extractor_reads_what_the_first_one_compiled(sd: Backbone) -> None:
    other = replace(READOUT, layers=((0, 0), (1, 1)))
    want = Extractor(sd, other, 0)(images(2))
    reader = Extractor(sd, READOUT, 0)
    reader.compile_blocks()
    reader(images(2))
    near(Extractor(sd, other, 0)(images(2)), want)


@pytest.mark.usefixtures("quick")
def test_close_gives_the_plain_network_back(sd: Backbone) -> None:
    reader = Extractor(sd, READOUT, 0)
    want = reader(images(2))
    reader.compile_blocks()
    reader.compile_blocks()  # twice is once
    assert not plain(sd)
    reader(images(2))
    reader.close()
    assert plain(sd)
    got = Extractor(sd, READOUT, 0)(images(2))
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("setting", [None, "0", "1"])
def test_only_on_demand(
    sd: Backbone,
    setting: str | None,
    write_crops: Callable[[int], Crops],
    photographs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if setting is not None:
        monkeypatch.setenv("ULD_COMPILE", setting)
    network = StoreParams(True, "features", (ViewParams(False, 0, 1),), False)
    reader, crops, warps = Extractor(sd, READOUT, 0), write_crops(16), np.empty((0, 2, 3))
    extract.fill(tmp_path / "x.zarr", reader, crops, photographs[1], network, None, 0, warps, tmp_path / "sd")
    assert plain(sd) == (setting != "1")
    assert bool(counters["stats"]["unique_graphs"]) == (setting == "1")


def test_a_network_in_training_is_out_of_reach() -> None:
    needed = imports.Code(ROOT).closure(["stages/backbone.py"])
    assert "uld/diffusion/training.py" in needed and "uld/diffusion/compiled.py" not in needed


def test_a_missing_compiler_is_named(sd: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    reader = Extractor(sd, READOUT, 0)
    reader.compile_blocks()
    with pytest.raises(ULDError, match=r"^ULD_COMPILE=1, but torch.compile fails \(.*\): install a C\+\+ comp[^\n]*$"):
        reader(images(2))


def test_a_missing_triton_is_named(sd: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise TritonMissing(None)

    monkeypatch.setattr(torch, "compile", lambda forward, **_: missing)
    reader = Extractor(sd, READOUT, 0)
    reader.compile_blocks()
    with pytest.raises(ULDError, match=r"torch.compile fails \(Cannot find a working triton.*on a GPU also Triton"):
        reader(images(2))
