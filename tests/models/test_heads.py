"""The trained model begins as the training-free one; what it learns, and what its frozen trunk leaves alone."""

import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uld.models.aggregator import Aggregator
from uld.models.frozen import Frozen
from uld.models.heads import Heads
from uld.models.pose import PoseVAE

GRID, DIMS = 8, 6
SHAPES = {"l00_t1": (5, 4, 4), "l10_t1": (3, 8, 8), "l10_t7": (3, 8, 8), "l20_t1": (2, 16, 16)}
KINDS = ["linear", "convolution", "head", "aggregated"]
OURS, PAPER = KINDS[:2], KINDS[2:]  # beginning at the training-free model, and without one


def features(images: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Channels of different means and spreads."""
    rng = torch.Generator().manual_seed(seed)
    maps = {name: torch.randn(images, *shape, generator=rng) for name, shape in SHAPES.items()}
    spread = {name: torch.rand(shape[0], 1, 1, generator=rng) * 9 + 0.5 for name, shape in SHAPES.items()}
    return {name: value * spread[name] + 4 * spread[name] for name, value in maps.items()}


def dims_of(descriptor: str) -> int:
    return 8 if descriptor == "aggregated" else DIMS


def make(descriptor: Any = "linear", channels: int = 1) -> Heads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = Frozen(["l00_t1", "l10_t1"], [5, 3], DIMS, GRID, "image")
        base.projection.copy_(torch.randn(DIMS, 8))
        base.offset.copy_(torch.randn(DIMS))
        aggregate = Aggregator(["l10_t1", "l10_t7", "l20_t1"], [3, 3, 2], 4, 8, 4, GRID)
        head = Heads(
            base if descriptor in OURS else None, aggregate, 12, descriptor, channels, dims=dims_of(descriptor)
        )
    whole = features(64, seed=9)
    head.fit_scale({name: value[part] for name, value in whole.items()} for part in (slice(40), slice(40, 64)))
    return head


def stir(head: Heads) -> Heads:
    """As after some training."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in head.parameters():
            value += 0.3 * torch.randn(value.shape, generator=rng)
    return head


def logits_of(head: Heads, maps: dict[str, Tensor]) -> Tensor:
    logits = head(maps).logits
    assert logits is not None
    return logits


def spread_of(value: Tensor) -> np.ndarray:
    """(C,) of maps (B, C, h, w), image means taken off."""
    x = value.double().numpy()
    return (x - x.mean((2, 3), keepdims=True)).std((0, 2, 3), ddof=1)


# --- the start ---


@pytest.mark.parametrize("descriptor", OURS)
def test_describes_as_the_frozen_head_at_first(descriptor: str) -> None:
    head = make(descriptor)
    assert head.base is not None
    found = head(features()).looks
    assert found.shape == (4, DIMS, GRID, GRID)
    torch.testing.assert_close(found, head.base.describe(features()), atol=1e-6, rtol=0)
    assert not torch.allclose(stir(head).describe(features()), head.base.describe(features()), atol=0.1)


@pytest.mark.parametrize("channels", [1, 5])
def test_detects_next_to_nothing_at_first(channels: int) -> None:
    logits = logits_of(make(channels=channels), features())
    assert logits.shape == (4, channels, GRID, GRID)
    assert logits.sigmoid().max() < 0.5 and 0.01 < logits.sigmoid().mean() < 0.1
    assert logits.std() > 0.1  # but not the same everywhere: there is something to learn from


def test_the_names_it_reads() -> None:
    head = make()
    assert head.maps_read() == ["l00_t1", "l10_t1", "l10_t7", "l20_t1"] and (head.grid, head.dims) == (GRID, DIMS)
    assert head.base is not None and head.base.maps_read() == ["l00_t1", "l10_t1"]
    for name in head.maps_read():
        with pytest.raises(KeyError, match=name):
            head({key: value for key, value in features().items() if key != name})


# --- what it computes ---


def test_a_linear_descriptor_is_a_matrix_on_the_frozen_one() -> None:
    head = make()
    weight, bias = torch.randn(2, DIMS, DIMS, generator=torch.Generator().manual_seed(1))
    head.descriptor_head.load_state_dict({"weight": weight[:, :, None, None], "bias": bias[0]})
    assert head.base is not None
    base = head.base.describe(features())
    want = F.normalize(base + torch.einsum("ij,bjyx->biyx", weight, base) + bias[0][:, None, None], dim=1)
    torch.testing.assert_close(head(features()).looks, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("descriptor", PAPER)
def test_the_descriptors_of_the_paper(descriptor: str) -> None:
    """F_ag of equation 2, and Psi_f(F_ag): nothing of a training-free model is in them."""
    head = stir(make(descriptor))
    assert head.base is None and head.maps_read() == ["l10_t1", "l10_t7", "l20_t1"]
    means = {name: value.mean((2, 3), keepdim=True) for name, value in features().items()}
    names = enumerate(head.aggregate.names)
    read = {name: (features()[name] - means[name]) / head.get_buffer(f"scale{i}") for i, name in names}
    want = head.aggregate(read)
    if descriptor == "head":
        conv, relu, norm, last = head.descriptor_head.children()
        want = last(norm(relu(conv(want))))
    torch.testing.assert_close(head(features()).looks, want / want.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    assert torch.equal(head.describe(features()), head(features()).looks) and want.shape[1] == head.dims


@pytest.mark.parametrize("descriptor", KINDS)
def test_what_a_published_checkpoint_reads_is_left_alone(descriptor: str) -> None:
    """Neither a mean nor a spread is taken off: channels of log-normal spread go in as they are."""
    rng = torch.Generator().manual_seed(4)
    spread = {name: torch.randn(shape[0], 1, 1, generator=rng).exp() for name, shape in SHAPES.items()}
    maps = {name: spread[name] * (value + 3) for name, value in features().items()}
    head = stir(make(descriptor))
    head.scaled = False
    want = head.detector_head(head.aggregate(maps))
    torch.testing.assert_close(logits_of(head, maps), want, atol=1e-5, rtol=1e-5)
    head.scaled = True
    assert not torch.allclose(logits_of(head, maps), want, atol=0.1)


@pytest.mark.parametrize("descriptor", KINDS)
def test_what_the_descriptors_teach(descriptor: str) -> None:
    """The aggregator, if the descriptors are made from its map; the detector never, and nothing of the frozen head."""
    head = stir(make(descriptor))
    weight = torch.randn(head.dims, GRID, GRID, generator=torch.Generator().manual_seed(2))
    (head.describe(features()) * weight).sum().backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    parts = {
        "linear": {"descriptor_head"},
        "convolution": {"descriptor_head", "aggregate"},
        "head": {"descriptor_head", "aggregate"},
        "aggregated": {"aggregate"},
    }
    assert taught == parts[descriptor]
    logits_of(head, features()).sum().backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    assert taught == parts[descriptor] | {"aggregate", "detector_head"}


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
    torch.testing.assert_close(logits_of(other, changed), logits_of(head, features()), atol=1e-3, rtol=1e-3)


def test_a_constant_channel_has_a_scale() -> None:
    head = make()
    flat = {name: torch.full_like(value, 3) for name, value in features().items()}
    head.fit_scale([flat])
    found = head(flat)
    assert found.looks.isfinite().all() and found.heat.isfinite().all()


# --- a frozen trunk ---


def frozen(descriptor: str, channels: int = 1) -> Heads:
    """A model that reads what its trunk has made."""
    head = stir(make(descriptor, channels))
    head.frozen_trunk = True
    return head


@pytest.mark.parametrize("descriptor", KINDS)
def test_what_the_trunk_made_stands_for_the_features(descriptor: str) -> None:
    whole, head = stir(make(descriptor)), frozen(descriptor)
    shapes = {"base": (4, DIMS, GRID, GRID), "aggregated": (4, 8, GRID, GRID)}
    if descriptor in PAPER:
        del shapes["base"]
    assert head.maps_read() == list(shapes) and head.maps_of_trunk() == whole.maps_read()
    made = head.trunk(features())
    assert {name: value.shape for name, value in made.items()} == shapes
    assert all(torch.equal(value, whole.trunk(features())[name]) for name, value in made.items())
    stored = {name: value.half().float() for name, value in made.items()}
    want = whole(features())
    for found, near in ((head(made), head(stored)), (head(features()), head(stored))):
        assert torch.equal(found.looks, want.looks) and torch.equal(found.heat, want.heat)
        torch.testing.assert_close(near.looks, want.looks, atol=2e-3, rtol=0)
        torch.testing.assert_close(near.logits, want.logits, atol=2e-2, rtol=2e-3)
    assert torch.equal(head.describe(made), want.looks)
    assert torch.equal(head(made | features(4, seed=1)).looks, want.looks), "what the trunk made comes first"


@pytest.mark.parametrize("descriptor", KINDS)
def test_a_model_whose_trunk_learns_reads_the_features_alone(descriptor: str) -> None:
    """What a trunk made once is stale as soon as it has learned."""
    head = stir(make(descriptor))
    stale = {name: torch.zeros_like(value) for name, value in head.trunk(features()).items()}
    assert torch.equal(head(features() | stale).looks, head(features()).looks)
    assert torch.equal(head(features() | stale).heat, head(features()).heat)


@pytest.mark.parametrize("descriptor", KINDS)
def test_a_frozen_trunk_learns_nothing(descriptor: str) -> None:
    head = frozen(descriptor)
    made = {name: value.detach() for name, value in head.trunk(features()).items()}
    maps = head(made)
    (maps.looks[:, 0].sum() + maps.heat.sum()).backward()
    taught = {name.split(".")[0] for name, value in head.named_parameters() if value.grad is not None}
    heads = {"detector_head"} if descriptor == "aggregated" else {"descriptor_head", "detector_head"}
    assert taught == heads
    before = {name: value.clone() for name, value in head.state_dict().items()}
    torch.optim.Adam(head.groups(0.1, 0.1)).step()
    moved = {name.split(".")[0] for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == heads


def test_a_linear_descriptor_needs_no_aggregated_map() -> None:
    head = frozen("linear")
    assert head.base is not None
    assert torch.equal(head.describe({"base": head.base.describe(features())}), head(features()).looks)
    for descriptor in KINDS[1:]:
        with pytest.raises(KeyError):
            frozen(descriptor).describe({"base": head.base.describe(features())})


# --- K heat maps ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_more_channels_keep_all_but_the_last_layer(descriptor: str) -> None:
    head = stir(make(descriptor))
    many = head.with_channels(7)
    assert (head.channels, many.channels) == (1, 7)
    before, after = head.state_dict(), many.state_dict()
    assert {name for name in before if before[name].shape != after[name].shape} == {
        "detector_head.3.weight",
        "detector_head.3.bias",
    }
    for name in before.keys() - {"detector_head.3.weight", "detector_head.3.bias"}:
        assert torch.equal(before[name], after[name])
    assert torch.equal(many(features()).looks, head(features()).looks)
    assert many(features()).heat.shape == (4, 7, GRID, GRID)
    assert torch.equal(after["detector_head.3.bias"], torch.full((7,), -3.0))
    assert many.about() == head.about() | {"channels": 7}


# --- training ---


@pytest.mark.parametrize("descriptor", KINDS)
def test_every_parameter_is_in_one_group(descriptor: str) -> None:
    head = make(descriptor)
    rest, own = head.groups(1e-3, 1e-5)
    assert (rest["lr"], own["lr"]) == (1e-3, 1e-5)
    ids = [id(one) for group in (rest, own) for one in group["params"]]
    assert sorted(ids) == sorted(id(one) for one in head.parameters()) and len(set(ids)) == len(ids)
    assert {id(one) for one in own["params"]} == {id(one) for one in head.descriptor_head.parameters()}
    assert head.base is None or not list(head.base.parameters())


# --- poses ---


def with_pose(head: Heads) -> Heads:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return head.with_pose(PoseVAE(GRID, 3, (4, 8), 2, "points"))


@pytest.mark.parametrize("descriptor", KINDS)
def test_a_pose_part_changes_nothing_else(descriptor: str) -> None:
    head = stir(make(descriptor, 2)).eval()
    assert head.pose is None and head.about()["pose"] is None and not head.encodes
    posed = with_pose(head).eval()
    assert posed.pose is not None and posed.about() == head.about() | {"pose": posed.pose.about()} and posed.encodes
    before, after = head.state_dict(), posed.state_dict()
    assert {name for name in after if name not in before} == {f"pose.{name}" for name in posed.pose.state_dict()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    found, want = posed(features()), head(features())
    assert torch.equal(found.looks, want.looks) and torch.equal(found.heat, want.heat) and want.code is None
    rest, own = posed.groups(1e-3, 1e-5)
    assert len(own["params"]) == len(head.groups(0, 0)[1]["params"])
    ids = {id(one) for one in rest["params"]}
    assert all(id(one) in ids for one in posed.pose.parameters())


def test_codes_are_of_the_highest_heat_map_and_not_asked_for_in_training() -> None:
    """The mean code of the higher one of two heat maps, cell by cell."""
    posed = with_pose(stir(make("linear", 2))).eval()
    assert posed.pose is not None
    maps = posed(features())
    assert 0 < (maps.heat[:, 0] > maps.heat[:, 1]).float().mean() < 1
    want, _ = posed.pose.encode(torch.maximum(maps.heat[:, :1], maps.heat[:, 1:]))
    assert maps.code is not None and maps.code.shape == (4, 3) and torch.equal(maps.code, want)
    assert (maps.code[0] - maps.code[1]).abs().max() > 1e-4
    assert posed.train()(features()).code is None


def test_a_pose_part_stays_with_other_channels_and_can_be_another() -> None:
    posed = with_pose(stir(make())).eval()
    assert posed.pose is not None
    many = posed.with_channels(7)
    assert many.about() == posed.about() | {"channels": 7} and many.pose is not None
    heat = torch.rand(2, 1, GRID, GRID, generator=torch.Generator().manual_seed(0))
    assert torch.equal(many.pose.encode(heat)[0], posed.pose.encode(heat)[0])
    half = posed.with_pose(posed.pose.without_decoder())
    assert not any(name.startswith("pose.decoder") for name in half.state_dict())
    assert half.pose is not None and torch.equal(half.pose.encode(heat)[0], posed.pose.encode(heat)[0])
    assert torch.equal(half(features()).heat, posed(features()).heat)
    with torch.no_grad():
        next(half.detector_head.parameters()).add_(1)
    assert not torch.equal(half(features()).heat, posed(features()).heat)  # a copy


# --- its file ---


@pytest.mark.parametrize("head", [make(), make("convolution", 3), with_pose(make()), frozen("linear", 2)])
def test_built_again_from_its_arguments(head: Heads) -> None:
    about = json.loads(json.dumps(head.about()))
    again = Heads.of(about)
    again.load_state_dict(head.state_dict())
    assert again.about() == head.about() and json.loads(json.dumps(head.about())) == about  # `of` leaves them alone
    found, want = again.eval()(features()), head.eval()(features())
    assert torch.equal(found.looks, want.looks) and torch.equal(found.heat, want.heat)
