"""The reduction of stored features keeps what it should."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from uld.base.errors import ArtifactError
from uld.diffusion import reduce
from uld.diffusion.reduce import ReduceParams


def maps(images: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Correlated channels of very different size and mean."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(9)) * torch.tensor([100.0, 1, 1, 0.1, 3, 0.01])
    shift = torch.tensor([50.0, 0, -3, 1, 0, 0.2])[:, None, None]
    wide = torch.einsum("ck,bkhw->bchw", mix.T, torch.randn(images, 6, 5, 5, generator=rng)) + shift
    return {"l00_t1": wide, "l10_t1": torch.randn(images, 3, 8, 8, generator=rng)}


def table(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1).flatten(0, 2)


def test_all_dimensions_keep_the_distances_of_z_scores() -> None:
    features = maps()
    got = reduce.fit([features], ReduceParams(dims=64, images=4))(features)
    for name, value in features.items():
        plain = table(value)
        z = (plain - plain.mean(0)) / plain.std(0, unbiased=False)
        assert got[name].shape == value.shape  # d = min(dims, C)
        torch.testing.assert_close(
            torch.cdist(table(got[name]), table(got[name])), torch.cdist(z, z), atol=1e-2, rtol=1e-3
        )


def test_few_dimensions_are_the_principal_ones() -> None:
    features = maps()
    got = reduce.fit([features], ReduceParams(dims=2, images=4))(features)
    for name, value in features.items():
        plain = table(value).numpy().astype(np.float64)
        want = PCA(2).fit_transform((plain - plain.mean(0)) / plain.std(0))
        mine = table(got[name]).numpy()
        np.testing.assert_allclose(np.abs(mine), np.abs(want), atol=5e-3)  # up to the sign of a component
        np.testing.assert_allclose(mine.mean(0), 0, atol=1e-3)


def test_it_commutes_with_bilinear_upsampling() -> None:
    features = maps()
    reduction = reduce.fit([features], ReduceParams(dims=3, images=4))

    def up(tree: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: F.interpolate(v, (16, 16), mode="bilinear", align_corners=False) for name, v in tree.items()}

    one, two = up(reduction(features)), reduction(up(features))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-3, rtol=1e-4)


def test_the_sample_may_come_in_any_batches() -> None:
    features = maps()
    whole = reduce.fit([features], ReduceParams(dims=4, images=4))
    parts = ({name: value[[n]] for name, value in features.items()} for n in range(4))
    apart = reduce.fit(parts, ReduceParams(dims=4, images=4))
    for name, value in whole.tensors.items():
        torch.testing.assert_close(apart.tensors[name], value, atol=1e-5, rtol=1e-4)


def test_a_constant_channel_does_no_harm() -> None:
    features = {"l00_t1": torch.randn(2, 3, 6, 6)}
    features["l00_t1"][:, 1] = 7
    got = reduce.fit([features], ReduceParams(dims=3, images=2))(features)["l00_t1"]
    assert got.isfinite().all()
    assert got.abs().max() < 10


def test_saved_and_loaded(tmp_path: Path) -> None:
    features = maps()
    reduction = reduce.fit([features], ReduceParams(dims=3, images=4))
    assert reduce.load(tmp_path) is None
    reduction.save(tmp_path)
    loaded = reduce.load(tmp_path)
    assert loaded is not None
    for name, value in reduction(features).items():
        assert torch.equal(loaded(features)[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["reduction.safetensors"]


def test_more_dimensions_than_positions() -> None:
    with pytest.raises(ArtifactError, match=r"reduce\.dims 100 exceeds the 25 positions sampled of l00_t1"):
        reduce.fit([maps(1)], ReduceParams(dims=100, images=1))
