"""SuperPoint with weights made here: random ones in three formats, and ones whose maps are known by hand."""

import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from uld.base import params
from uld.base.errors import ParamsError, ULDError
from uld.keypoints.superpoint import SuperPoint, SuperPointParams

State = dict[str, Tensor]

# name, outputs, inputs, kernel of the published file's twelve layers
MAGIC_LEAP = [
    ("conv1a", 64, 1, 3), ("conv1b", 64, 64, 3), ("conv2a", 64, 64, 3), ("conv2b", 64, 64, 3),
    ("conv3a", 128, 64, 3), ("conv3b", 128, 128, 3), ("conv4a", 128, 128, 3), ("conv4b", 128, 128, 3),
    ("convPa", 256, 128, 3), ("convPb", 65, 256, 1), ("convDa", 256, 128, 3), ("convDb", 256, 256, 1),
]  # fmt: skip
OPEN = [
    "backbone.0.0", "backbone.0.1", "backbone.1.0", "backbone.1.1", "backbone.2.0", "backbone.2.1", "backbone.3.0",
    "backbone.3.1", "detector.0", "detector.1", "descriptor.0", "descriptor.1",
]  # fmt: skip
TRANSFORMERS = [
    "encoder.conv_blocks.0.conv_a", "encoder.conv_blocks.0.conv_b", "encoder.conv_blocks.1.conv_a",
    "encoder.conv_blocks.1.conv_b", "encoder.conv_blocks.2.conv_a", "encoder.conv_blocks.2.conv_b",
    "encoder.conv_blocks.3.conv_a", "encoder.conv_blocks.3.conv_b", "keypoint_decoder.conv_score_a",
    "keypoint_decoder.conv_score_b", "descriptor_decoder.conv_descriptor_a", "descriptor_decoder.conv_descriptor_b",
]  # fmt: skip
PLACES = np.array([[3.5, 3.5], [11.5, 3.5], [6.25, 9], [12, 20.75], [0, 0], [23, 23], [-0.5, 22]], np.float32)
PHOTO = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(5))


def magic_leap() -> State:
    """Random weights that keep the signal's size."""
    rng = torch.Generator().manual_seed(0)
    state: State = {}
    for name, new, old, k in MAGIC_LEAP:
        state[f"{name}.weight"] = torch.randn(new, old, k, k, generator=rng) * (2 / (old * k * k)) ** 0.5
        state[f"{name}.bias"] = torch.randn(new, generator=rng) * 0.2
    return state


def transformers() -> State:
    """The same under the names of transformers."""
    old = magic_leap()
    pairs = zip(TRANSFORMERS, MAGIC_LEAP, strict=True)
    return {f"{name}.{what}": old[f"{row[0]}.{what}"] for name, row in pairs for what in ("weight", "bias")}


def reimplemented() -> State:
    """The same in the open format, with random normalisation."""
    rng = torch.Generator().manual_seed(1)
    old, state = magic_leap(), {}
    for name, (theirs, new, _, _) in zip(OPEN, MAGIC_LEAP, strict=True):
        for what in ("weight", "bias"):
            state[f"{name}.conv.{what}"] = old[f"{theirs}.{what}"]
        var = 10 ** (-3 * torch.rand(new, generator=rng))  # down to eps
        state[f"{name}.bn.weight"] = (torch.rand(new, generator=rng) + 0.7) * var.sqrt()
        state[f"{name}.bn.bias"] = torch.randn(new, generator=rng) * 0.3
        state[f"{name}.bn.running_mean"] = torch.rand(new, generator=rng) * 0.5
        state[f"{name}.bn.running_var"] = var
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1000)
    return state


def superpoint(weights: Path, **changes: Any) -> SuperPoint:
    settings = {"threshold": 0.0, "radius": 0, "border": 0, "cap": 10_000, "scale": 1}
    return SuperPoint(SuperPointParams(weights=str(weights), **settings | changes))


def saved(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def decoded(logits: Tensor) -> Tensor:
    """(B, 65, h, w) -> (B, 8 h, 8 w), pixel by pixel."""
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    batch, _, h, w = logits.shape
    heat = torch.zeros(batch, 8 * h, 8 * w)
    for y in range(8 * h):
        for x in range(8 * w):
            heat[:, y, x] = shares[:, 8 * (y % 8) + x % 8, y // 8, x // 8]
    return heat


def luma(images: Tensor) -> Tensor:
    return 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]


def sampled(maps: Tensor, xy: np.ndarray) -> Tensor:
    """Descriptors (B, D, h, w) of unit length, at pixels (P, 2): (B, P, D), corner by corner."""
    maps = maps / maps.square().sum(1, keepdim=True).sqrt()
    height, width = maps.shape[2:]
    found = []
    for x, y in (xy.astype(float) + 0.5) / 8 - 0.5:
        total = torch.zeros(maps.shape[:2])
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                total += weight * maps[:, :, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
        found.append(total / total.square().sum(1, keepdim=True).sqrt())
    return torch.stack(found, 1)


def described(detector: SuperPoint, images: Tensor, xy: np.ndarray = PLACES) -> Tensor:
    """Descriptors (B, P, D) of the same places in each image."""
    found = detector.describe(images, [xy] * len(images))
    assert all(one.dtype == np.float32 for one in found)
    return torch.from_numpy(np.stack(found))


# --- formats ---


def test_made_up_files_have_the_published_size() -> None:
    assert sum(value.numel() for value in magic_leap().values()) == 1_300_865


def test_magic_leap_against_plain_functions(tmp_path: Path) -> None:
    state = magic_leap()
    x = luma(PHOTO)
    for name in ("1a", "1b", "pool", "2a", "2b", "pool", "3a", "3b", "pool", "4a", "4b"):
        weight = state.get(f"conv{name}.weight")
        x = F.max_pool2d(x, 2) if weight is None else F.conv2d(x, weight, state[f"conv{name}.bias"], padding=1).relu()

    def head(a: str, b: str) -> Tensor:
        inner = F.conv2d(x, state[f"{a}.weight"], state[f"{a}.bias"], padding=1).relu()
        return F.conv2d(inner, state[f"{b}.weight"], state[f"{b}.bias"])

    want = decoded(head("convPa", "convPb"))
    path = tmp_path / "superpoint_v1.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)  # the published file is as old
    detector = superpoint(path)
    assert want.std() > 0.005  # far from uniform
    torch.testing.assert_close(detector.heat(PHOTO), want, atol=1e-5, rtol=1e-4)
    looks = sampled(head("convDa", "convDb"), PLACES)
    assert looks.std(1).max() > 0.02  # they differ
    torch.testing.assert_close(described(detector, PHOTO), looks, atol=1e-5, rtol=1e-3)


def test_open_format_against_plain_functions(tmp_path: Path) -> None:
    state = reimplemented()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        gain = state[f"{name}.bn.weight"] / (var + 1e-3).sqrt()
        return (x - mean[:, None, None]) * gain[:, None, None] + state[f"{name}.bn.bias"][:, None, None]

    def layer(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=1)
        return norm(x.clamp_min(0), name)

    x = luma(PHOTO)
    for name in OPEN[:8]:
        if name in ("backbone.1.0", "backbone.2.0", "backbone.3.0"):
            x = F.max_pool2d(x, 2)
        x = layer(x, name)

    def head(a: str, b: str) -> Tensor:
        return norm(F.conv2d(layer(x, a), state[f"{b}.conv.weight"], state[f"{b}.conv.bias"]), b)

    want = decoded(head("detector.0", "detector.1"))
    detector = superpoint(saved(state, tmp_path / "superpoint_v6_from_tf.pth"))
    assert want.std() > 0.005
    torch.testing.assert_close(detector.heat(PHOTO), want, atol=1e-5, rtol=1e-3)
    looks = sampled(head("descriptor.0", "descriptor.1"), PLACES)
    assert looks.std(1).max() > 0.02
    torch.testing.assert_close(described(detector, PHOTO), looks, atol=1e-5, rtol=1e-3)


def test_names_of_transformers_give_the_same_maps(tmp_path: Path) -> None:
    one = superpoint(saved(magic_leap(), tmp_path / "ml.pth"))
    for path in (tmp_path / "t.pth", tmp_path / "t.safetensors"):
        other = superpoint(saved(transformers(), path))
        assert torch.equal(other.heat(PHOTO), one.heat(PHOTO))
        assert torch.equal(described(other, PHOTO), described(one, PHOTO))


def test_a_folder_of_transformers_gives_its_own_scores(tmp_path: Path) -> None:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    every = SuperPointConfig(keypoint_threshold=0.0, nms_radius=0, border_removal_distance=0)
    model = SuperPointForKeypointDetection(every).eval()
    model.load_state_dict(transformers())
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        out = model(luma(PHOTO).expand(2, 3, 24, 24))
    points = superpoint(tmp_path)(PHOTO)
    for i in range(2):
        x, y = (24 * out.keypoints[i]).round().int().T  # theirs are relative
        theirs, ours = torch.zeros(24, 24), torch.zeros(24, 24)
        theirs[y, x] = out.scores[i]
        ours[points[i][:, 1], points[i][:, 0]] = torch.from_numpy(points[i][:, 2])
        assert len(points[i]) == 24 * 24
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (magic_leap, r"\(Magic Leap\), licence: non-commercial research only"),
        (transformers, r"\(transformers, Magic Leap's weights\), licence: non-commercial research only"),
        (reimplemented, r"\(open re-implementation\), licence: MIT"),
    ],
)
def test_the_licence_is_told_once(make: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = superpoint(saved(make(), tmp_path / "w.pth"))
    detector(PHOTO)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(f"w.pth: SuperPoint weights {said}", record.getMessage())


# --- decoding ---


def by_hand(**bias: float) -> State:
    """All zeros but the last bias: channel `c<number>` of every cell has this logit, the others 0."""
    state = {name: torch.zeros_like(value) for name, value in magic_leap().items()}
    for name, value in bias.items():
        state["convPb.bias"][int(name[1:])] = value
    return state


def seeing(channel: int, gain: float) -> State:
    """As `by_hand`, with one channel's logit `gain` times the largest luma of the cell."""
    state = by_hand()
    for name, _, _, k in MAGIC_LEAP[:8]:
        state[f"{name}.weight"][0, 0, k // 2, k // 2] = 1
    state["convPa.weight"][0, 0, 1, 1] = 1
    state["convPb.weight"][channel, 0, 0, 0] = gain
    return state


def found(state: State, folder: Path, images: Tensor, **changes: Any) -> list[np.ndarray]:
    return superpoint(saved(state, folder / "hand.pth"), **changes)(images)


def test_channel_is_row_and_column_of_the_cell(tmp_path: Path) -> None:
    (points,) = found(by_hand(c19=5), tmp_path, torch.zeros(1, 3, 16, 16), threshold=0.5)
    assert points.dtype == np.float32
    share = math.exp(5) / (math.exp(5) + 64)  # 19 = 8 * 2 + 3
    np.testing.assert_allclose(points, [[3, 2, share], [11, 2, share], [3, 10, share], [11, 10, share]], rtol=1e-6)


def test_dustbin_takes_its_share_and_is_no_pixel(tmp_path: Path) -> None:
    state = by_hand(c63=2, c64=6)
    heat = superpoint(saved(state, tmp_path / "w.pth")).heat(torch.zeros(1, 3, 8, 8))
    total = math.exp(2) + math.exp(6) + 63
    want = torch.full((1, 8, 8), 1 / total)
    want[0, 7, 7] = math.exp(2) / total
    torch.testing.assert_close(heat, want)


def test_cells_lie_as_in_the_image_and_luma_is_of_rgb(tmp_path: Path) -> None:
    images = torch.zeros(4, 3, 24, 24)
    for i in range(3):
        images[i, i, 9, 20] = 1  # x = 20, y = 9: cell (2, 1)
    points = found(seeing(channel=19, gain=20), tmp_path, images, threshold=0.02)
    for one, weight in zip(points, (0.299, 0.587, 0.114), strict=False):
        want = math.exp(20 * weight) / (math.exp(20 * weight) + 64)
        np.testing.assert_allclose(one, [[8 * 2 + 3, 8 + 2, want]], rtol=1e-4)
    assert points[3].shape == (0, 3) and points[3].dtype == np.float32


@pytest.mark.parametrize(("size", "scale"), [(16, 2), (8, 4), (11, 3)])
def test_points_of_an_enlarged_crop_are_in_its_own_pixels(size: int, scale: int, tmp_path: Path) -> None:
    (points,) = found(by_hand(c19=5), tmp_path, torch.zeros(1, 3, size, size), threshold=0.5, scale=scale)
    x, y = np.meshgrid(np.arange(3, size * scale, 8), np.arange(2, size * scale, 8))
    want = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1) / scale - 0.5
    np.testing.assert_allclose(points[:, :2], want, atol=1e-5)


def test_the_last_cells_of_an_odd_size_see_the_mirrored_image(tmp_path: Path) -> None:
    image = torch.zeros(1, 3, 12, 12)
    image[:, :, 2, 7] = 1  # padded by reflection, columns 12..15 repeat 10..7
    detector = superpoint(saved(seeing(channel=0, gain=10), tmp_path / "w.pth"))
    heat = detector.heat(image)
    assert heat.shape == (1, 12, 12)
    high, low = math.exp(10) / (math.exp(10) + 64), 1 / 65
    corners = heat[0][::8, ::8]
    torch.testing.assert_close(corners, torch.tensor([[high, high], [low, low]]), atol=1e-5, rtol=1e-5)
    assert len(detector(image)[0]) == 144


def test_threshold_radius_cap_and_order(tmp_path: Path) -> None:
    state = by_hand(c9=3, c27=4, c54=2)  # (1, 1), (3, 3), (6, 6)

    def cells(**changes: Any) -> list[tuple[int, int]]:
        (points,) = found(state, tmp_path, torch.zeros(1, 3, 8, 8), **changes)
        return [(int(x), int(y)) for x, y, _ in points]

    assert cells(threshold=0.05) == [(3, 3), (1, 1), (6, 6)]
    assert cells(threshold=0.05, cap=2) == [(3, 3), (1, 1)]
    assert cells(threshold=0.1) == [(3, 3), (1, 1)]
    assert cells(threshold=0.05, radius=1) == [(3, 3), (1, 1), (6, 6)]
    assert cells(threshold=0.05, radius=2) == [(3, 3), (6, 6)]
    assert cells(threshold=0.05, radius=3) == [(3, 3)]


def test_the_cap_is_of_each_image_and_within_the_border(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[1] = 1
    for border, want in ((0, 3), (2, 3), (3, 2), (4, 1)):  # (3, 2), (11, 2), (3, 10), (11, 10)
        points = found(seeing(19, 5), tmp_path, images, threshold=0.5, border=border, cap=3)
        assert [len(one) for one in points] == [0, want]
    assert points[1][0, :2].tolist() == [11, 10]


def test_a_slope_of_a_peak_in_the_border_is_no_peak(tmp_path: Path) -> None:
    state = by_hand(c27=5, c36=4)  # (3, 3) and beside it (4, 4)
    (points,) = found(state, tmp_path, torch.zeros(1, 3, 16, 16), threshold=0.1, radius=1, border=4)
    assert points[:, :2].tolist() == [[11, 11]]


def test_border_is_as_wide_on_all_sides(tmp_path: Path) -> None:
    (points,) = found(by_hand(), tmp_path, torch.zeros(1, 3, 8, 8), border=2, scale=2)
    x = np.unique(points[:, 0])
    np.testing.assert_allclose(x, (np.arange(2, 14) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(np.unique(points[:, 1]), x)


def test_the_same_whatever_the_batch(tmp_path: Path) -> None:
    detector = superpoint(saved(magic_leap(), tmp_path / "w.pth"), radius=2, scale=2)
    for image, points in zip(PHOTO, detector(PHOTO), strict=True):
        np.testing.assert_allclose(detector(image[None])[0], points, atol=1e-6)


# --- descriptors ---


@pytest.mark.parametrize(("size", "scale"), [(16, 1), (8, 2), (4, 4), (14, 1), (7, 2)])
def test_descriptors_between_two_cells(size: int, scale: int, tmp_path: Path) -> None:
    """One cell looks like (1, 0) and the one right of it, which is white, like (1, 1); a cell is 8 enlarged pixels."""
    state = by_hand()
    for name, _, _, k in [*MAGIC_LEAP[:8], MAGIC_LEAP[10]]:
        state[f"{name}.weight"][0, 0, k // 2, k // 2] = 1
    state["convDb.weight"][1, 0, 0, 0] = 1
    state["convDb.bias"][0] = 1
    white = torch.zeros(1, 3, size, size)
    white[..., 8 // scale :] = 1
    white[..., 8 // scale - 1] = 0
    x = np.linspace(0, size - 1, 9, dtype=np.float32)
    detector = superpoint(saved(state, tmp_path / "w.pth"), scale=scale)
    (found,) = detector.describe(white, [np.column_stack([x, x[::-1]])])
    cell = detector._network.describe(detector._large(white))[0, :2, 0].detach().numpy()
    share = (((x + 0.5) * scale + 0.0) / 8 - 0.5).clip(0, 1)[:, None]
    want = (1 - share) * cell[:, 0] + share * cell[:, 1]
    np.testing.assert_allclose(found[:, :2], want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-5)
    assert cell[1, 0] < 0.6 < cell[1, 1]


def test_descriptors_whatever_the_batch_and_without_points(tmp_path: Path) -> None:
    detector = superpoint(saved(magic_leap(), tmp_path / "w.pth"), radius=2, scale=2)
    points = detector(PHOTO)
    points = [points[0], points[1][:0]]
    found = detector.describe(PHOTO, points)
    assert found[0].shape == (len(points[0]), 256) and found[1].shape == (0, 256)
    np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(detector.describe(PHOTO[:1], points[:1])[0], found[0], atol=1e-6)


# --- errors ---


class Harmful:
    """Runs a command when unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1a.weight": Harmful()}, "harmful.pth")
    Path("text.pth").write_text("hello")
    Path("empty.pth").write_bytes(b"")
    whole = saved(magic_leap(), Path("whole.pth")).read_bytes()
    Path("cut.pth").write_bytes(whole[: len(whole) // 2])
    Path("text.safetensors").write_text("hello")
    for name in ("harmful.pth", "text.pth", "empty.pth", "cut.pth", "text.safetensors"):
        with pytest.raises(
            ULDError, match=rf"superpoint: {name} cannot be read: .*pickled.*\. Get it again, or save its state dict"
        ) as caught:
            superpoint(Path(name))
        assert "weights_only" not in str(caught.value)
    assert not Path("harm").exists()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ULDError, match=r"gone.pth is missing: put superpoint_v6_from_tf.pth .* mend `weights`"):
        superpoint(tmp_path / "gone.pth")
    with pytest.raises(ULDError, match=r"model.safetensors is missing: put"):
        superpoint(tmp_path)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": magic_leap()}, {0: torch.zeros(1)}])
def test_no_state_dict(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ULDError, match=r"w.pth is no state dict \(names and tensors\): save that part of it alone"):
        superpoint(saved(content, tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [{}, {"layer1.weight": torch.zeros(3)}])
def test_another_network(content: State, tmp_path: Path) -> None:
    with pytest.raises(
        ULDError,
        match=r"no tensor is named conv1a\.\*, encoder\.conv_blocks\.0\.conv_a\.\*, backbone\.0\.0\.\*\. Choose",
    ):
        superpoint(saved(content, tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("make", "drop", "name"),
    [
        (magic_leap, "conv4b.bias", "Magic Leap"),
        (magic_leap, "convDb.bias", "Magic Leap"),
        (transformers, "encoder.conv_blocks.3.conv_b.bias", "transformers, Magic Leap's weights"),
        (reimplemented, "backbone.3.1.bn.running_var", "open re-implementation"),
    ],
)
def test_all_that_does_not_fit_is_named(make: Any, drop: str, name: str, tmp_path: Path) -> None:
    state = make()
    del state[drop]
    first = next(iter(state))
    state |= {"extra": torch.zeros(1), first: torch.zeros(64, 3, 3, 3)}
    with pytest.raises(ULDError) as caught:
        superpoint(saved(state, tmp_path / "w.pth"))
    assert str(caught.value) == (
        f"superpoint: {tmp_path / 'w.pth'} ({name}) does not fit the network: missing: {drop}; unknown: extra; of "
        f"another shape: {first} (64, 3, 3, 3), not (64, 1, 3, 3). Choose another file as `weights`."
    )


@pytest.mark.parametrize("change", [{"threshold": 1.5}, {"radius": -1}, {"border": -1}, {"cap": 0}, {"scale": 0}])
def test_params_out_of_range(change: dict[str, Any]) -> None:
    block = {"weights": "w.pth", "threshold": 0.015, "radius": 4, "border": 4, "cap": 30, "scale": 4}
    assert params.build(SuperPointParams, block, "points.superpoint").scale == 4
    with pytest.raises(ParamsError, match=rf"points.superpoint.{next(iter(change))}: "):
        params.build(SuperPointParams, block | change, "points.superpoint")
