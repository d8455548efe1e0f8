"""What models of images with two heads have in common: the same weights say the same, and all of them learn."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models import test_encoder, test_hourglass
from tests.models.test_encoder import DIMS, GRID, images
from uld.models.on_crops import CropModel
from uld.models.pose import PoseVAE

Make = Callable[..., CropModel]
MAKES = [test_encoder.make, test_hourglass.make]
each = pytest.mark.parametrize("make", MAKES, ids=["encoder", "hourglass"])


@each
def test_the_same_weights_say_the_same(make: Make) -> None:
    one, other = make()(images()), make()(images())
    assert torch.equal(one.looks, other.looks) and torch.equal(one.heat, other.heat)
    apart = make()(images(3)).looks[:2] - one.looks  # whatever else is in the batch
    assert apart.abs().max() < 1e-5
    assert one.looks.shape == (2, DIMS, GRID, GRID)
    torch.testing.assert_close(make().describe(images()), one.looks)


@each
def test_everything_learns(make: Make) -> None:
    model = make()
    maps = model(images())
    weight = torch.randn(maps.looks.shape, generator=torch.Generator().manual_seed(1))
    ((maps.looks * weight).sum() + maps.heat.sum()).backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    rest, own = model.groups(1e-3, 1e-5)
    ids = [id(one) for group in (rest, own) for one in group["params"]]
    assert sorted(ids) == sorted(map(id, model.parameters())) and (rest["lr"], own["lr"]) == (1e-3, 1e-5)
    assert set(map(id, own["params"])) == set(map(id, model.descriptor_head.parameters()))


def posed(make: Make) -> CropModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return make().with_pose(PoseVAE(GRID, 3, (4, 8), 2, "points")).eval()


@each
def test_a_pose_part_leaves_the_others_alone(make: Make) -> None:
    model = posed(make)
    found, want = model(images()), make()(images())
    assert model.encodes and torch.equal(found.looks, want.looks) and torch.equal(found.heat, want.heat)
    assert found.code is not None and found.code.shape == (2, 3) and model.pose is not None
    assert torch.equal(found.code, model.pose.encode(found.heat)[0])
    assert model.train()(images()).code is None  # nobody asks for codes while it learns


@each
@pytest.mark.parametrize("changed", [{}, {"channels": 4}, None])
def test_built_again_from_its_arguments(make: Make, changed: dict[str, Any] | None) -> None:
    model = posed(make) if changed is None else make(**changed)
    again = type(model).of(json.loads(json.dumps(model.about())))
    again.load_state_dict(model.state_dict())
    assert again.about() == model.about()
    found, want = again.eval()(images()), model.eval()(images())
    assert torch.equal(found.looks, want.looks) and torch.equal(found.heat, want.heat)
    assert (found.code is None) == (model.pose is None)
