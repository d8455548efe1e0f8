"""The training-free head against the long way round: concatenate, upsample, z-score, PCA."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from uld.artifacts.models import Origin, save_model
from uld.base.errors import ULDError
from uld.geometry import coords, sampling
from uld.models import frozen
from uld.models.frozen import Frozen, ProjectionParams

GRID, IMAGES = 8, 12
SHAPES = {"l00_t1": (5, 4, 4), "l10_t1": (3, 8, 8), "l00_t7": (5, 4, 4), "l10_t7": (3, 8, 8), "l20_t1": (2, 16, 16)}
MAPS = {
    name: torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(n)) * (n + 1) + 3 * n
    for n, (name, shape) in enumerate(SHAPES.items())
}
MAPS["l00_t7"] += 4 * MAPS["l00_t1"]  # as noise levels do, they tell much the same


def read(rows: np.ndarray) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in MAPS.items()}


def inside(rows: np.ndarray) -> np.ndarray:
    """All but the outermost cells."""
    mask = np.zeros((len(rows), GRID, GRID), bool)
    mask[:, 1:-1, 1:-1] = True
    return mask


def params(**changes: Any) -> ProjectionParams:
    settings = {
        "layers": ((0, 0), (1, 0)),
        "dims": 4,
        "grid": GRID,
        "centre": "dataset",
        "whiten": 0.5,
        "images": IMAGES,
        "points": 50,
    }
    return ProjectionParams(**settings | changes)


def fit(**changes: Any) -> Frozen:
    return frozen.fit(params(**changes), read, inside, np.arange(IMAGES), np.random.default_rng(0))


def stacked(names: list[str], centre: str) -> Tensor:
    """(N, C, G, G): all maps at the grid's size."""
    parts = [MAPS[name] - (MAPS[name].mean((2, 3), keepdim=True) if centre == "image" else 0) for name in names]
    return torch.cat([F.interpolate(v, (GRID, GRID), mode="bilinear", align_corners=False) for v in parts], 1)


def drawn(names: list[str], centre: str) -> Tensor:
    """(M, C): the same random positions as the head's, read at the maps' own resolution one image after the other."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(IMAGES):
        cells = rng.choice(np.flatnonzero(inside(np.zeros(1))[0]), size=50)
        xy = coords.cells(GRID)[cells] + rng.uniform(-0.5, 0.5, (50, 2))
        columns = []
        for name in names:
            value = MAPS[name][n] - (MAPS[name][n].mean((1, 2), keepdim=True) if centre == "image" else 0)
            local = coords.apply(coords.resize(GRID, value.shape[-1]), xy)
            columns.append(sampling.sample(value[None], torch.from_numpy(local)[None])[0])
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows).double()


@pytest.mark.parametrize("centre", ["dataset", "image"])
@pytest.mark.parametrize("whiten", [0.0, 0.5, 1.0])
def test_against_the_long_way(centre: str, whiten: float) -> None:
    names = ["l00_t1", "l10_t1", "l00_t7", "l10_t7"]  # all timesteps of the two layers
    head = fit(centre=centre, whiten=whiten)
    assert head.names == names
    table = drawn(names, centre)
    share = torch.tensor([1 / 5**0.5] * 5 + [1 / 3**0.5] * 3).repeat(2)  # each layer weighs the same
    scale = table.std(0) / share
    pca = PCA(4).fit(((table - table.mean(0)) / scale).numpy())
    axes = torch.from_numpy(pca.components_ * pca.explained_variance_[:, None] ** (-whiten / 2))
    z = (stacked(names, centre).double() - table.mean(0)[:, None, None]) / scale[:, None, None]
    want = F.normalize(torch.einsum("dc,bchw->bdhw", axes, z), dim=1).float()
    got = head(read(np.arange(IMAGES))).looks
    assert torch.equal(got, head.describe(read(np.arange(IMAGES))))
    assert got.shape == (IMAGES, 4, GRID, GRID)
    sign = (got * want).sum((0, 2, 3), keepdim=True).sign()  # a component's is free
    torch.testing.assert_close(got, want * sign, atol=2e-4, rtol=0)


def test_descriptors_have_unit_length() -> None:
    torch.testing.assert_close(fit().describe(read(np.arange(3))).norm(dim=1), torch.ones(3, GRID, GRID))


def test_whitening_evens_the_variances() -> None:
    variance = {}
    for whiten in (0.0, 0.5, 1.0):
        head = fit(whiten=whiten)
        variance[whiten] = ((drawn(head.names, "dataset") - head.mean) @ head.projection.double().T).var(0)
    torch.testing.assert_close(variance[1.0], torch.ones(4).double(), atol=1e-3, rtol=0)
    assert variance[0.0].max() / variance[0.0].min() > 1.2
    torch.testing.assert_close(variance[0.5], variance[0.0].sqrt(), atol=1e-3, rtol=0)


def test_centring_by_image_takes_off_what_is_constant_in_one() -> None:
    """Another brightness or person shifts whole maps; with `image` the descriptors do not move."""
    for centre, moves in (("image", False), ("dataset", True)):
        head = fit(centre=centre)
        before = read(np.arange(4))
        after = {
            n: v + 10 * torch.randn(4, v.shape[1], 1, 1, generator=torch.Generator().manual_seed(1))
            for n, v in before.items()
        }
        assert torch.allclose(head.describe(before), head.describe(after), atol=1e-3) is not moves


def test_it_says_nothing_but_descriptors() -> None:
    head = fit()
    maps = head(read(np.arange(2)))
    assert (head.channels, head.encodes, head.reads_pixels) == (0, False, False)
    assert maps.logits is None and maps.code is None
    assert head.maps_read() == head.names and (head.grid, head.dims, head.sizes) == (GRID, 4, [5, 3, 5, 3])


def test_the_same_generator_gives_the_same_file(tmp_path: Path) -> None:
    for n in "ab":
        save_model(fit(), tmp_path / n, Origin("features/trained", "digest", None, 0))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"model.json", "model.safetensors"}
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("layers", [((0, 0), (3, 1)), ((1, 1),), ((5, 5),)])
def test_a_layer_that_is_not_stored(layers: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(
        ULDError, match=r"starts: layers .* are not all in the feature store \(l00_t1, .*readout.layers"
    ):
        fit(layers=layers)


def test_more_dimensions_than_there_are() -> None:
    with pytest.raises(ULDError, match="dims 17 exceeds the 16 channels or 600 points"):
        fit(dims=17)
    with pytest.raises(ULDError, match="dims 13 exceeds the 16 channels or 12 points"):
        fit(dims=13, points=1)


def test_positions_are_drawn_in_the_roi_only() -> None:
    """What lies more than a cell outside the ROI does not count."""
    spoilt = {name: value.clone() for name, value in MAPS.items()}
    for value in spoilt.values():
        value[:, :, 0] = 1e6

    def mean(top: int) -> float:
        mask = np.zeros((1, GRID, GRID), bool)
        mask[:, top:] = True
        head = frozen.fit(
            params(layers=((1, 0),), dims=3),  # maps of the grid's own size
            lambda rows: {name: value[rows] for name, value in spoilt.items()},
            lambda rows: mask,
            np.arange(IMAGES),
            np.random.default_rng(0),
        )
        return float(head.mean.abs().max())

    assert mean(2) < 100
    assert mean(1) > 1000  # half a cell beyond its centre, a cell borders on the first row


def test_an_image_without_roi_is_sampled_as_a_whole() -> None:
    empty = frozen.fit(
        params(), read, lambda rows: np.zeros((len(rows), GRID, GRID), bool), np.arange(3), np.random.default_rng(0)
    )
    assert empty.projection.isfinite().all()


def test_features_are_sampled_where_they_are() -> None:
    """A store of latents gives them on the GPU; there may be none here, so another device stands in, without values."""
    found = frozen._at(torch.empty(1, 5, 4, 4, device="meta"), np.zeros((7, 2)), GRID, "image")
    assert found.shape == (7, 5) and found.is_meta
