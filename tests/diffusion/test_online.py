"""A store of latents reads like the store of features that the same settings give."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.training.adam import ADAM
from uld.base import params, runtime
from uld.base.errors import ArtifactError
from uld.commands import plan
from uld.diffusion import backbone, extract, reduce
from uld.diffusion.extract import StoreParams, ViewParams
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.online import LatentStore, network, open_store
from uld.diffusion.reduce import ReduceParams
from uld.diffusion.store import FeatureStore
from uld.geometry import coords, sampling
from uld.geometry.frames import Frames, corners
from uld.images.crops import Crops, as_images
from uld.models.frozen import ProjectionParams
from uld.models.heads import HeadsParams
from uld.sources.stored_views import StoredViews
from uld.starts.base import Site
from uld.starts.heads import HeadsStart, HeadsStartParams
from uld.training.bootstrap import BootstrapParams
from uld.training.optimiser import OptimiserParams

TRAIN = np.arange(5)
VIEWS = (ViewParams(False, 0, 1), ViewParams(True, 0, 1), ViewParams(False, 90, 1))
READOUT = ReadoutParams(((0, 1), (1, 0)), (24, 142), "add_noise", 50, "float32")


@pytest.fixture
def stores(tmp_path: Path, pixel_folder: Path, crops32: Crops, photographs: tuple[Path, pd.DataFrame]) -> Any:
    """(policy, reduction) -> the store of features and that of latents."""
    warps = coords.view(32, rotate=20)[None]

    def run(
        readout: ReadoutParams = READOUT, reduction: ReduceParams | None = None
    ) -> tuple[FeatureStore, FeatureStore]:
        extractor = Extractor(backbone.load(pixel_folder), readout, 0)
        opened = []
        for keep in ("features", "latents"):
            path = tmp_path / "features" / f"{keep}.zarr"
            kept = StoreParams(True, keep, VIEWS, False)  # type: ignore[arg-type]
            extract.fill(path, extractor, crops32, photographs[1], kept, reduction, 0, warps, pixel_folder)
            opened.append(open_store(path))
        return opened[0], opened[1]

    return run


@pytest.mark.parametrize("reduction", [None, ReduceParams(3, 5)])
@pytest.mark.parametrize("policy", ["add_noise", "clean", "invert"])
def test_latents_read_like_features(stores: Any, policy: Any, reduction: ReduceParams | None) -> None:
    timesteps = (20, 140) if policy == "invert" else READOUT.timesteps
    kept, online = stores(replace(READOUT, policy=policy, timesteps=timesteps), reduction)
    assert type(kept) is FeatureStore and isinstance(online, LatentStore)
    assert online.names == kept.names and len(online) == len(kept)
    rows, views = np.array([6, 0, 3, 0]), np.array([3, 0, 2, 1])
    for names in (kept.names, kept.names[-1:]):
        got, want = online.views_of(rows, views, names), kept.views_of(rows, views, names)
        assert list(got) == list(want) == names
        for name in names:
            torch.testing.assert_close(got[name], want[name], atol=5e-3, rtol=5e-3)
    np.testing.assert_array_equal(online.views, kept.views)
    with pytest.raises(ArtifactError, match="does not hold image row 6 in view 1"):
        online.read(np.array([6]), 1)


def test_only_the_timesteps_asked_for_are_run(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, online = stores()
    ran: list[int] = []
    denoise = online.network._extractor.denoise
    monkeypatch.setattr(online.network._extractor, "denoise", lambda latent, t: (ran.append(t), denoise(latent, t))[1])
    online.read(np.arange(3), names=["l10_t142"])
    assert ran == [142]


def test_any_thread_may_read(stores: Any) -> None:
    _, online = stores()
    want = [online.read(np.array([row])) for row in range(7)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda row: online.read(np.array([row % 7])), range(28)))
    for i, found in enumerate(got):
        assert all(torch.equal(found[name], want[i % 7][name]) for name in found)


def test_batches_do_not_matter(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, online = stores()
    whole = online.read(np.arange(7))
    monkeypatch.setenv("ULD_BATCH", "2")
    for name, value in online.read(np.arange(7)).items():
        torch.testing.assert_close(value, whole[name], atol=2e-3, rtol=2e-3)


def test_a_batch_that_memory_does_not_hold_is_halved(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the reduction that memory does not hold."""
    _, online = stores(reduction=ReduceParams(3, 5))
    whole, project = online.read(np.arange(7)), reduce.Reduction._project

    def small(reduction: reduce.Reduction, name: str, value: torch.Tensor) -> torch.Tensor:
        if len(value) > 3:
            raise torch.OutOfMemoryError
        return project(reduction, name, value)

    monkeypatch.setattr(runtime, "_fitting", [])
    monkeypatch.setattr(reduce.Reduction, "_project", small)
    for name, value in online.read(np.arange(7)).items():
        torch.testing.assert_close(value, whole[name], atol=2e-3, rtol=2e-3)


def test_training_from_latents_is_training_from_features(
    stores: Any, crops32: Crops, photographs: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    """A bootstrap draws the same pairs and ends in the same model, but for the rounding of latents to float16."""
    sizes = HeadsParams(((0, 1), (1, 0)), (24,), 8, 16, 4, 16, "convolution", "native", None)
    projection = ProjectionParams(((0, 1), (1, 0)), 6, 8, "image", 1.0, 5, 40)
    block = BootstrapParams(
        {"by": "silk", "tolerance": 1}, 0.0, 1.0, 12, 3, 1e-3, 1e-3, OptimiserParams(**ADAM), None, 0.05, "both"
    )
    start = HeadsStart(HeadsStartParams("heads", "features/either", projection, sizes, None, block))
    frames = Frames(crops32.affine, corners(photographs[1]), crops32.inside, crops32.size, 8)
    ends = []
    for number, store in enumerate(stores()):
        site = Site(StoredViews(store, frames, TRAIN), crops32, 0, tmp_path / f"{number}.pt", "either")
        made = start.make(site)
        assert made.history is not None
        ends.append((made.model.describe(store.read(np.arange(7))).detach(), made.history["loss"].to_numpy()))
    assert ends[0][1][-1] < 0.97 * ends[0][1][0]  # it learns
    np.testing.assert_allclose(ends[1][1], ends[0][1], rtol=5e-3)
    torch.testing.assert_close(ends[1][0], ends[0][0], atol=0.03, rtol=0)  # of descriptors of unit length


def test_latents_of_another_backbone_are_refused(stores: Any, tmp_path: Path, sd_folder: Path) -> None:
    stores()
    inside = tmp_path / "features/latents.zarr/backbone"
    shutil.rmtree(inside)
    inside.symlink_to(sd_folder)
    with pytest.raises(ArtifactError, match="made with another backbone"):
        open_store(tmp_path / "features/latents.zarr")


def test_a_store_needs_nothing_but_its_folder(stores: Any, tmp_path: Path) -> None:
    _, online = stores()
    there = Path(shutil.copytree(online.path, tmp_path / "elsewhere"))
    got, want = open_store(there).read(TRAIN, 2), online.read(TRAIN, 2)
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("keep", ["features", "latents"])
def test_the_network_of_a_store_sees_new_images(
    tmp_path: Path, sd_folder: Path, crops32: Crops, photographs: tuple[Path, pd.DataFrame], keep: Any
) -> None:
    """With an autoencoder, a text, and images that are resized: as the store would hold them."""
    extractor, path = Extractor(backbone.load(sd_folder), replace(READOUT, timesteps=(24,)), 4), tmp_path / "x.zarr"
    store, none = StoreParams(True, keep, VIEWS, False), np.empty((0, 2, 3))
    extract.fill(path, extractor, crops32, photographs[1], store, ReduceParams(5, 4), 4, none, sd_folder)
    opened = open_store(path)
    found, name = network(opened), "l10_t24"
    assert found.names == opened.names and (keep == "features" or found is network(opened))
    images = as_images(crops32.images(TRAIN), runtime.device())
    for view, affine in enumerate(opened.views):
        made = found.of_images(sampling.warp(images, affine), [name])
        assert list(made) == [name] and made[name].shape[1] == 5
        torch.testing.assert_close(made[name], opened.read(TRAIN, view, [name])[name], atol=5e-3, rtol=5e-3)


def test_latents_are_small(stores: Any) -> None:
    both = [(store, store.spec["arrays"]) for store in stores()]
    size = [sum(f.stat().st_size for name in arrays for f in (store.path / name).rglob("0")) for store, arrays in both]
    assert size[1] < size[0] / 4


def test_the_plan_knows_the_autoencoder_and_the_text(tmp_path: Path, sd_folder: Path) -> None:
    tree = params.load(Path(__file__).parents[2] / "params.yaml")
    tree["backbone"] = "sd15"
    tree["backbones"]["sd15"] |= {"path": str(sd_folder), "image_size": 16}
    tree["readout"] |= {"layers": [[0, 0], [1, 0]], "timesteps": [24]}
    one = plan.one_pass(tree)
    extractor = Extractor(
        backbone.load(sd_folder), ReadoutParams(((0, 0), (1, 0)), (24,), "add_noise", 50, "float32"), 0
    )
    latent = extractor.encode(torch.rand(1, 3, 16, 16))
    assert one.latent == latent.numel() and one.encode > 0 and one.read > 0
    want = {name: value.shape[1:] for name, value in extractor.features(latent).items()}
    assert one.maps == {name: shape[0] for name, shape in want.items()}
    assert one.cells == {name: shape[1] * shape[2] for name, shape in want.items()}
