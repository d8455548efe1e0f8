"""The trained model begins as the training-free head, and is the same after a file."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld import models
from uld.base.errors import ArtifactError, ULDError
from uld.models import refuse_collapse
from uld.models.aggregator import Aggregator
from uld.models.frozen import FrozenHead
from uld.models.heads import LearnedHead
from uld.models.pose import PoseVAE

GRID, DIMS = 8, 6
SHAPES = {"l00_t1": (5, 4, 4), "l10_t1": (3, 8, 8), "l10_t7": (3, 8, 8), "l20_t1": (2, 16, 16)}
KINDS = ["linear", "convolution"]


def features(images: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Channels of different means and spreads."""
    rng = torch.Generator().manual_seed(seed)
    maps = {name: torch.randn(images, *shape, generator=rng) for name, shape in SHAPES.items()}
    spread = {name: torch.rand(shape[0], 1, 1, generator=rng) * 9 + 0.5 for name, shape in SHAPES.items()}
    return {name: value * spread[name] + 4 * spread[name] for name, value in maps.items()}


def make(descriptor: Any = "linear", channels: int = 1) -> LearnedHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = FrozenHead(["l00_t1", "l10_t1"], [5, 3], DIMS, GRID, "image")
        base.projection.copy_(torch.randn(DIMS, 8))
        base.offset.copy_(torch.randn(DIMS))
        aggregate = Aggregator(["l10_t1", "l10_t7", "l20_t1"], [3, 3, 2], 4, 8, 4, GRID)
        head = LearnedHead(base, aggregate, 12, descriptor, channels)
    whole = features(64, seed=9)
    head.fit_scale({name: value[part] for name, value in whole.items()} for part in (slice(40), slice(40, 64)))
    return head


def stir(head: LearnedHead) -> LearnedHead:
    """As after some training."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in head.parameters():
            value += 0.3 * torch.randn(value.shape, generator=rng)
    return head


def spread_of(value: Tensor) -> np.ndarray:
    """(C,) of maps (B, C, h, w), image means taken off."""
    x = value.double().numpy()
    return (x - x.mean((2, 3), keepdims=True)).std((0, 2, 3), ddof=1)


# --- the start ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_describes_as_the_frozen_head_at_first(descriptor: str) -> None:
    head = make(descriptor)
    found = head(features())
    assert found.shape == (4, DIMS, GRID, GRID)
    torch.testing.assert_close(found, head.base(features()), atol=1e-6, rtol=0)
    assert not torch.allclose(stir(head)(features()), head.base(features()), atol=0.1)


@pytest.mark.parametrize("channels", [1, 5])
def test_detects_next_to_nothing_at_first(channels: int) -> None:
    logits = make(channels=channels).maps(features())[1]
    assert logits.shape == (4, channels, GRID, GRID)
    assert logits.sigmoid().max() < 0.5 and 0.01 < logits.sigmoid().mean() < 0.1
    assert logits.std() > 0.1  # but not the same everywhere: there is something to learn from


def test_the_names_it_reads() -> None:
    head = make()
    assert head.names == ["l00_t1", "l10_t1", "l10_t7", "l20_t1"] and head.grid == GRID
    for name in head.names:
        with pytest.raises(KeyError, match=name):
            head.maps({key: value for key, value in features().items() if key != name})


# --- what it computes ---


def test_a_linear_descriptor_is_a_matrix_on_the_frozen_one() -> None:
    head = make()
    weight, bias = torch.randn(2, DIMS, DIMS, generator=torch.Generator().manual_seed(1))
    head.describe.load_state_dict({"weight": weight[:, :, None, None], "bias": bias[0]})
    base = head.base(features())
    want = F.normalize(base + torch.einsum("ij,bjyx->biyx", weight, base) + bias[0][:, None, None], dim=1)
    torch.testing.assert_close(head(features()), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("descriptor", KINDS)
def test_what_the_descriptors_teach(descriptor: str) -> None:
    """The aggregator, if the descriptors are made from its map; the detector never, and nothing of the frozen head."""
    head = stir(make(descriptor))
    (head(features()) * torch.randn(DIMS, GRID, GRID, generator=torch.Generator().manual_seed(2))).sum().backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    assert taught == ({"describe"} if descriptor == "linear" else {"describe", "aggregate"})
    head.maps(features())[1].sum().backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    assert taught == {"describe", "aggregate", "detect"}


@pytest.mark.parametrize("descriptor", KINDS)
def test_scales_of_channels_do_not_matter(descriptor: str) -> None:
    """A channel that is a hundred times larger, once the scale is fitted, tells the same; so does a shifted one."""
    head, other = stir(make(descriptor)), stir(make(descriptor))
    sample = features(64, seed=9)
    for number, name in enumerate(head.aggregate.names):
        found = head.get_buffer(f"scale{number}")
        assert found.shape == (SHAPES[name][0], 1, 1)
        np.testing.assert_allclose(found.flatten(), spread_of(sample[name]), rtol=1e-5)
    gain = {name: torch.tensor([100.0, 1, 0.01, 7, 1])[: shape[0], None, None] for name, shape in SHAPES.items()}
    other.fit_scale([{name: gain[name] * value + 50 for name, value in sample.items()}])
    changed = {name: gain[name] * value + 50 for name, value in features().items()}
    torch.testing.assert_close(other.maps(changed)[1], head.maps(features())[1], atol=1e-3, rtol=1e-3)


def test_a_constant_channel_has_a_scale() -> None:
    head = make()
    flat = {name: torch.full_like(value, 3) for name, value in features().items()}
    head.fit_scale([flat])
    assert all(value.isfinite().all() for value in head.maps(flat))


# --- an aggregator that rests ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_what_is_at_rest_stands_for_the_features(descriptor: str) -> None:
    head = stir(make(descriptor))
    rest = head.at_rest(features())
    assert {name: value.shape for name, value in rest.items()} == {
        "base": (4, DIMS, GRID, GRID),
        "aggregated": (4, 8, GRID, GRID),
    }
    stored = {name: value.half().float() for name, value in rest.items()}
    assert torch.equal(head(rest), head(features()))
    torch.testing.assert_close(head(stored), head(features()), atol=2e-3, rtol=0)
    for part, found, want in zip(head.maps(rest), head.maps(stored), head.maps(features()), strict=True):
        assert torch.equal(part, want)
        torch.testing.assert_close(found, want, atol=2e-2, rtol=2e-3)
    assert torch.equal(head(rest | features(4, seed=1)), head(rest)), "what is at rest comes first"


@pytest.mark.parametrize("descriptor", KINDS)
def test_an_aggregator_that_rests_learns_nothing(descriptor: str) -> None:
    head = stir(make(descriptor))
    rest = {name: value.detach() for name, value in head.at_rest(features()).items()}
    descriptors, logits = head.maps(rest)
    (descriptors[:, 0].sum() + logits.sum()).backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    assert taught == {"describe", "detect"}
    before = {name: value.clone() for name, value in head.state_dict().items()}
    torch.optim.Adam(head.groups(0.1, 0.1)).step()
    moved = {name.split(".")[0] for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"describe", "detect"}


def test_a_linear_descriptor_at_rest_needs_no_aggregated_map() -> None:
    head = stir(make("linear"))
    assert torch.equal(head({"base": head.base(features())}), head(features()))


def test_the_fingerprint_is_of_what_rests(tmp_path: Path) -> None:
    head = stir(make())
    own = head.fingerprint()
    other = with_pose(head).with_channels(5)
    for module in (other.describe, other.detect, other.pose):
        assert isinstance(module, torch.nn.Module)
        for value in module.parameters():
            torch.nn.init.normal_(value)
    models.save(other, tmp_path, "sd-15")
    loaded = models.load(tmp_path, "sd-15")
    assert isinstance(loaded, LearnedHead) and loaded.fingerprint() == other.fingerprint() == own
    for name in ("base.projection", "base.offset", "aggregate.mixing_weights", "scale1"):
        changed = stir(make())
        changed.state_dict()[name].view(-1)[0] += 1
        assert changed.fingerprint() != own, name
    coarse = stir(make())
    coarse.aggregate.aggregate_at = "grid"
    assert coarse.fingerprint() != own


def test_a_store_of_another_aggregator_is_refused() -> None:
    head = stir(make())
    names = [*SHAPES, "l30_t1"]
    assert head.reads(SimpleNamespace(names=names, spec={})) == head.names
    kept = SimpleNamespace(names=["base", "aggregated"], path=Path("silk.zarr"))
    kept.spec = {"start": "silk", "aggregator": head.fingerprint()}
    assert head.reads(kept) == ["base", "aggregated"]
    with pytest.raises(
        ArtifactError, match=r"silk.zarr holds the maps of the start 'silk', .* or run `dvc repro aggregate@silk`"
    ):
        make().reads(kept)
    assert head.base.reads(SimpleNamespace(names=names, spec={})) == ["l00_t1", "l10_t1"]
    with pytest.raises(ArtifactError, match=r"silk.zarr lacks l00_t1, l10_t1, .* read a line of `networks`"):
        head.base.reads(kept)


# --- K heat maps ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_more_channels_keep_all_but_the_last_layer(descriptor: str) -> None:
    head = stir(make(descriptor))
    many = head.with_channels(7)
    assert (head.channels, many.channels) == (1, 7)
    before, after = head.state_dict(), many.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == {"detect.3.weight", "detect.3.bias"}
    for name in before.keys() - {"detect.3.weight", "detect.3.bias"}:
        assert torch.equal(before[name], after[name])
    assert torch.equal(many(features()), head(features()))
    heat = many.maps(features())[1].sigmoid()
    assert heat.shape == (4, 7, GRID, GRID) and torch.equal(after["detect.3.bias"], torch.full((7,), -3.0))
    assert many.about() == head.about() | {"channels": 7}


# --- training ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_every_parameter_is_in_one_group(descriptor: str) -> None:
    head = make(descriptor)
    rest, own = head.groups(1e-3, 1e-5)
    assert (rest["lr"], own["lr"]) == (1e-3, 1e-5)
    ids = [id(one) for group in (rest, own) for one in group["params"]]
    assert sorted(ids) == sorted(id(one) for one in head.parameters()) and len(set(ids)) == len(ids)
    assert {id(one) for one in own["params"]} == {id(one) for one in head.describe.parameters()}
    assert not list(head.base.parameters())


# --- poses ---


def with_pose(head: LearnedHead) -> LearnedHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return head.with_pose(PoseVAE(GRID, 3, (4, 8), 2, "points"))


@pytest.mark.parametrize("descriptor", KINDS)
def test_a_pose_part_changes_nothing_else(descriptor: str) -> None:
    head = stir(make(descriptor, 2))
    assert head.pose is None and "pose" not in head.about()
    posed = with_pose(head)
    assert posed.pose is not None and posed.about() == head.about() | {"pose": posed.pose.about()}
    before, after = head.state_dict(), posed.state_dict()
    assert {name for name in after if name not in before} == {f"pose.{name}" for name in posed.pose.state_dict()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for found, want in zip(posed.maps(features()), head.maps(features()), strict=True):
        assert torch.equal(found, want)
    rest, own = posed.groups(1e-3, 1e-5)
    assert len(own["params"]) == len(head.groups(0, 0)[1]["params"])
    ids = {id(one) for one in rest["params"]}
    assert all(id(one) in ids for one in posed.pose.parameters())


def test_a_pose_part_stays_with_other_channels_and_can_be_another() -> None:
    posed = with_pose(stir(make()))
    assert posed.pose is not None
    many = posed.with_channels(7)
    assert many.about() == posed.about() | {"channels": 7} and many.pose is not None
    heat = torch.rand(2, 1, GRID, GRID, generator=torch.Generator().manual_seed(0))
    assert torch.equal(many.pose.encode(heat)[0], posed.pose.encode(heat)[0])
    half = posed.with_pose(posed.pose.without_decoder())
    assert not any(name.startswith("pose.decoder") for name in half.state_dict())
    assert half.pose is not None and torch.equal(half.pose.encode(heat)[0], posed.pose.encode(heat)[0])
    assert torch.equal(half.maps(features())[1], posed.maps(features())[1])


@pytest.mark.parametrize("drop", [False, True])
def test_a_pose_part_saved_and_loaded(drop: bool, tmp_path: Path) -> None:
    posed = with_pose(stir(make()))
    assert posed.pose is not None
    posed = posed.with_pose(posed.pose.without_decoder()) if drop else posed
    models.save(posed, tmp_path / "a", "sd-15")
    loaded = models.load(tmp_path / "a", "sd-15")
    assert isinstance(loaded, LearnedHead) and loaded.pose is not None and posed.pose is not None
    assert loaded.about() == posed.about() and loaded.pose.decodes == (not drop)
    heat = torch.rand(2, 1, GRID, GRID, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.pose.encode(heat)[0], posed.pose.encode(heat)[0])
    assert torch.equal(loaded.maps(features())[1], posed.maps(features())[1])
    models.save(loaded, tmp_path / "b", "sd-15")
    for name in ("head.json", "head.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


# --- files ---


@pytest.mark.parametrize("head", [make("linear"), make("convolution", 3), make().base])
def test_saved_and_loaded(head: models.Head, tmp_path: Path) -> None:
    head = stir(head) if isinstance(head, LearnedHead) else head
    models.save(head.train(), tmp_path / "a/b", "sd-15")
    loaded = models.load(tmp_path / "a/b", "sd-15")
    assert type(loaded) is type(head) and not loaded.training and loaded.about() == head.about()
    assert torch.equal(loaded(features()), head(features()))
    if isinstance(head, LearnedHead):
        assert isinstance(loaded, LearnedHead) and torch.equal(loaded.maps(features())[1], head.maps(features())[1])
    models.save(loaded, tmp_path / "c", "sd-15")
    for name in ("head.json", "head.safetensors"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a/b" / name).read_bytes()
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_model_of_another_backbone_is_refused(tmp_path: Path) -> None:
    models.save(make(), tmp_path / "silk", "sd-15")
    with pytest.raises(ArtifactError, match=r"silk was made for the features of another backbone: run `dvc repro boot"):
        models.load(tmp_path / "silk", "sd-21")
    with pytest.raises(ArtifactError, match=r"none/head.json is missing: run `dvc repro bootstrap`"):
        models.load(tmp_path / "none", "sd-15")


# --- collapse ---


def alike(*levels: float) -> Tensor:
    """(B, 2, 4, 4) of unit length; the mean over an image's cells has the squared length `level`."""
    angle = torch.tensor([math.acos(math.sqrt(level)) for level in levels])
    sign = torch.tensor([1.0, -1.0]).repeat(8).view(4, 4)
    turn = angle[:, None, None] * sign
    return torch.stack([turn.cos(), turn.sin()], 1)


def test_collapse_is_refused() -> None:
    refuse_collapse(alike(0.979), "silk")
    refuse_collapse(alike(1.0, 0.9), "silk")  # on the mean of all images
    refuse_collapse(-alike(0.0, 0.0), "silk")
    with pytest.raises(ULDError, match=r"^silk: all descriptors of an image have become alike \(0.981\): lower the le"):
        refuse_collapse(alike(0.981), "silk")
    with pytest.raises(ULDError, match="alike"):
        refuse_collapse(torch.cat([alike(1.0), -alike(1.0)]), "silk")  # one each: different in different images
