"""Frames of heat maps against their moments, and the pose autoencoder on maps that are moved and scaled."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from uld.base.errors import ParamsError, ULDError
from uld.base.params import build
from uld.geometry import heatmaps
from uld.losses import duld
from uld.models.pose import Frame, PoseParams, PoseVAE, frame

GRID = 32
FACE = torch.tensor([[-5.0, -4.0], [4.0, -5.0], [0.5, 0.0], [-3.0, 5.0], [6.0, 6.5]])  # about (0.5, 0.5)
SIZES: dict[str, Any] = {"code": 5, "widths": [8, 16], "groups": 4, "normalise": "points"}


def blobs(xy: Tensor, sigma: float) -> Tensor:
    """(1, 1, G, G) heat at points (K, 2)."""
    return heatmaps.render(xy[None], GRID, sigma)[:, None]


def smooth(xy: Tensor, sigma: float) -> Tensor:
    """(1, 1, 2 G, 2 G): Gaussians at points (K, 2) added, so that there are no edges for the resampling to blur."""
    y, x = torch.meshgrid(torch.arange(2.0 * GRID), torch.arange(2.0 * GRID), indexing="ij")
    gap = (torch.stack([x, y], dim=2) - xy[:, None, None]).square().sum(3)
    return (gap / (-2 * sigma**2)).exp().sum(0)[None, None]


def make(**changes: Any) -> PoseVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return PoseVAE(GRID, **SIZES | changes)


def noise(images: int, seed: int = 0) -> Tensor:
    return torch.randn(images, SIZES["code"], generator=torch.Generator().manual_seed(seed))


# --- the frame ---


def test_the_frame_is_that_of_the_moments() -> None:
    """Squared, blobs of sigma 1 that hardly meet are Gaussians of variance 1/2 in x and in y."""
    face = 1.2 * FACE
    found = frame(torch.cat([blobs(face + torch.tensor([12.0, 19.0]), 1), 0.3 * blobs(face + 15, 1)]))
    middle = face.mean(0)
    torch.testing.assert_close(found.centre[0], middle + torch.tensor([12.0, 19.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(found.centre[1], middle + 15, atol=1e-2, rtol=0)
    radius = math.sqrt(float((face - middle).square().sum(1).mean()) + 1)
    np.testing.assert_allclose(found.zoom, 0.2 * GRID / radius, rtol=2e-3)
    assert found.grid == GRID


def test_a_higher_point_weighs_more() -> None:
    """Heights 1 and 1/2, so weights 4 and 1."""
    heat = torch.maximum(blobs(torch.tensor([[8.0, 10.0]]), 1), 0.5 * blobs(torch.tensor([[18.0, 25.0]]), 1))
    torch.testing.assert_close(frame(heat).centre, torch.tensor([[10.0, 13.0]]), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("scale", "x", "y"), [(1.0, 3, -2), (1.0, -2.4, 1.7), (0.7, 0, 0), (1.3, -1.2, 0.8)])
def test_moved_and_scaled_maps_look_the_same(scale: float, x: float, y: float) -> None:
    """Not so turned or stretched ones: that is pose."""
    face = 2 * FACE
    heat, other = smooth(face + 30, 4), smooth(scale * face + 30 + torch.tensor([x, y]), scale * 4)
    want = frame(heat).maps(heat)
    assert (other - heat).abs().max() > 0.2
    torch.testing.assert_close(frame(other).maps(other), want, atol=0.03, rtol=0)
    stretched = smooth(scale * face * torch.tensor([0.6, 1.0]) + 30, scale * 4)
    assert (frame(stretched).maps(stretched) - want).abs().max() > 0.4


def test_a_map_in_its_frame_is_centred_and_of_the_wanted_size() -> None:
    heat = blobs(0.8 * FACE + 11, 1.5)
    again = frame(frame(heat).maps(heat))
    torch.testing.assert_close(again.centre, torch.full((1, 2), (GRID - 1) / 2), atol=0.05, rtol=0)
    torch.testing.assert_close(again.zoom, torch.ones(1), atol=0.03, rtol=0)


def test_maps_and_points_in_a_frame_by_hand() -> None:
    """Bilinear sampling of a plane is exact: each cell shows where it came from."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    where = torch.stack([x, y]).expand(2, 2, 8, 8)
    one = Frame(torch.tensor([[4.0, 3.0], [2.5, 4.0]]), torch.tensor([2.0, 0.5]), 8)
    found = one.maps(where)
    assert found.shape == (2, 2, 8, 8)
    # (new - 3.5) / zoom + centre
    torch.testing.assert_close(found[0, :, 6, 1], torch.tensor([-2.5 / 2 + 4, 2.5 / 2 + 3]))
    torch.testing.assert_close(found[1, :, 3, 4], torch.tensor([0.5 * 2 + 2.5, -0.5 * 2 + 4]))
    assert (found[1, :, :, 0] == 0).all() and (found[1, :, 7] == 0).all()  # -4.5 in x and 11 in y are outside
    back = one.points(found[:, :, 3:6, 3:6].flatten(2).mT)
    want = where[:, :, 3:6, 3:6].flatten(2).mT
    torch.testing.assert_close(back, want)


def test_points_are_where_the_map_has_its_blobs() -> None:
    xy = 0.7 * FACE + torch.tensor([10.0, 18.0])
    heat = blobs(xy, 2)
    one = frame(heat)
    want = blobs(one.points(xy[None])[0], 2 * float(one.zoom))
    assert (one.points(xy[None]) - xy).abs().min() > 0.2
    torch.testing.assert_close(one.maps(heat), want, atol=0.1, rtol=0)  # bilinear blobs are lower


def test_a_dim_background_hardly_moves_the_frame() -> None:
    """Though it sums up to more than the points do."""
    heat = blobs(0.8 * FACE + 10, 1)
    dim = heat.clamp_min(0.03)
    assert (dim - heat).sum() > 0.8 * heat.sum()
    assert (frame(dim).centre - frame(heat).centre).abs().max() < 0.4
    assert frame(dim).zoom > 0.8 * frame(heat).zoom


def test_dark_maps_and_lone_points_have_a_frame() -> None:
    heat = torch.zeros(3, 1, GRID, GRID)
    heat[1, 0, 20, 9] = 1
    heat[2, 0, 0, 0] = 1e-3
    heat.requires_grad_()
    one = frame(heat)
    torch.testing.assert_close(one.centre[0], torch.full((2,), (GRID - 1) / 2))
    torch.testing.assert_close(one.centre[1], torch.tensor([9.0, 20.0]), atol=1e-2, rtol=0)
    assert one.zoom[0] == pytest.approx(0.2 * GRID / math.sqrt((GRID**2 - 1) / 6)) and one.zoom[1] == 4
    seen = one.maps(heat)
    seen.sum().backward()
    assert seen.isfinite().all() and heat.grad is not None and heat.grad.isfinite().all()
    assert not seen[0].any() and seen[1].sum().item() == pytest.approx(16, rel=1e-2)  # 4 x 4 times the area


def test_the_gradient_passes_the_map_and_not_the_frame() -> None:
    heat = blobs(0.8 * FACE + 14.3, 1.2).requires_grad_()
    one = frame(heat)
    assert not one.centre.requires_grad and not one.zoom.requires_grad
    weight = torch.rand(heat.shape, generator=torch.Generator().manual_seed(0))
    (weight * one.maps(heat)).sum().backward()
    assert heat.grad is not None
    # linear in the map, once the frame is given
    assert (heat.grad * heat).sum().item() == pytest.approx((weight * one.maps(heat)).sum().item(), rel=1e-4)
    assert (heat.grad[heat > 0.1] > 0).all()


# --- the autoencoder ---


@pytest.mark.parametrize("widths", [(8,), (8, 16), (4, 8, 12, 16)])
def test_sizes_and_few_points_at_first(widths: tuple[int, ...]) -> None:
    model = make(widths=widths)
    logits, mu, logvar = model(blobs(FACE + 15, 1).repeat(3, 1, 1, 1), noise(3))
    assert logits.shape == (3, 1, GRID, GRID) and mu.shape == logvar.shape == (3, 5)
    assert 0.02 < logits.sigmoid().mean() < 0.1
    assert [tuple(m.weight.shape[:2]) for m in model.encoder if isinstance(m, torch.nn.Conv2d)] == list(
        zip(widths, (1, *widths), strict=False)
    )
    assert [tuple(m.weight.shape[:2]) for m in model.decoder if isinstance(m, torch.nn.Conv2d)] == list(
        zip((*widths[-2::-1], 1), widths[::-1], strict=True)
    )


def test_the_code_is_drawn_with_the_noise() -> None:
    model, heat, one = make(), blobs(FACE + 15, 1).repeat(4, 1, 1, 1), noise(4)
    logits, mu, logvar = model(heat, one)
    assert torch.equal(model.encode(heat)[0], mu) and torch.equal(model.encode(heat)[1], logvar)
    torch.testing.assert_close(logits, model.decode(mu + logvar.exp().sqrt() * one))
    torch.testing.assert_close(model(heat, torch.zeros(4, 5))[0], model.decode(mu))
    assert (model.decode(mu) - logits).abs().max() > 1e-3


def test_normalised_codes_do_not_tell_place_and_size() -> None:
    here, there = blobs(FACE + 15, 2), blobs(0.8 * FACE + torch.tensor([12.0, 18.0]), 1.6)
    stretched = blobs(FACE * torch.tensor([0.6, 1.0]) + 15, 2)

    def gaps(model: PoseVAE) -> tuple[float, float]:
        code = model.encode(torch.cat([here, there, stretched]))[0].detach()
        return float((code[1] - code[0]).norm()), float((code[2] - code[0]).norm())

    moved, turned = gaps(make())
    assert moved < 0.25 * turned
    moved, turned = gaps(make(normalise="none"))
    assert moved > 0.5 * turned


def test_targets_in_the_frame_of_the_heat() -> None:
    heat, target = blobs(FACE + 12, 1), blobs(FACE + 18, 1)
    assert torch.equal(make().reframe(target, heat), frame(heat).maps(target))
    assert make(normalise="none").reframe(target, heat) is target
    two = torch.cat([target, heat], dim=1)  # any number of maps an image
    assert torch.equal(make().reframe(two, heat)[:, 1:], frame(heat).maps(heat))


@pytest.mark.parametrize("normalise", ["none", "points"])
def test_the_loss_teaches_both_halves_and_the_heat(normalise: str) -> None:
    model, heat = make(normalise=normalise), blobs(FACE + 14, 1).requires_grad_()
    logits, mu, logvar = model(heat, noise(1))
    duld.elbo(logits, model.reframe(heat, heat).detach(), mu, logvar, 1.0, 0.0)[0].backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())
    assert heat.grad is not None and heat.grad.isfinite().all() and heat.grad.any()


def test_learns_to_tell_poses_apart() -> None:
    """Four faces, each stretched in its own way and moved about."""
    rng = torch.Generator().manual_seed(0)
    stretch = torch.tensor([[0.4, 1.0], [1.0, 0.4], [1.0, 1.0], [-1.0, 1.0]])
    pose = torch.arange(4).repeat(6)
    shift = 13 + 5 * torch.rand(24, 1, 2, generator=rng)
    heat = heatmaps.render(stretch[pose][:, None] * FACE + shift, GRID, 1.0)[:, None]
    model = make()
    target, optimiser = model.reframe(heat, heat), torch.optim.Adam(model.parameters(), 3e-3)
    told = []
    for step in range(60):
        logits, mu, logvar = model(heat, noise(24, step))
        loss, reconstruction, _ = duld.elbo(logits, target, mu, logvar, 0.1, 0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        told.append(reconstruction.item())
    assert told[-1] < 0.6 * told[0]
    mu = model.encode(heat)[0].detach()
    assert duld.active_units(mu) >= 2
    gap = torch.cdist(mu, mu) + torch.diag(torch.full((24,), torch.inf))
    assert torch.equal(pose[gap.argmin(1)], pose)


# --- without its decoder ---


def test_the_decoder_can_be_dropped() -> None:
    model, heat = make(), blobs(FACE + 13, 1)
    half = model.without_decoder()
    assert torch.equal(half.encode(heat)[0], model.encode(heat)[0])
    assert torch.equal(half.encode(heat)[1], model.encode(heat)[1])
    names = {name.split(".")[0] for name in half.state_dict()}
    assert names == {"encoder", "mu", "logvar"} and names | {"decoder"} == {n.split(".")[0] for n in model.state_dict()}
    for call in (lambda: half(heat, noise(1)), lambda: half.decode(noise(1))):
        with pytest.raises(ULDError, match="the pose part of this model has no decoder any more: begin this round at"):
            call()
    with torch.no_grad():
        next(half.parameters()).add_(1)
    assert not torch.equal(half.encode(heat)[0], model.encode(heat)[0])  # a copy
    assert half.without_decoder().about() == half.about() == model.about() | {"decodes": False}


@pytest.mark.parametrize("drop", [False, True])
def test_built_again_from_its_file(drop: bool) -> None:
    model = make().without_decoder() if drop else make()
    about = json.loads(json.dumps(model.about()))
    again = PoseVAE(**about)
    again.load_state_dict(model.state_dict())
    assert again.about() == model.about() == {"grid": GRID, "decodes": not drop} | SIZES
    heat = blobs(FACE + 13, 1)
    assert torch.equal(again.encode(heat)[0], model.encode(heat)[0])


# --- params ---


def test_params_are_the_arguments() -> None:
    params = build(PoseParams, SIZES, "pose")
    assert PoseVAE(GRID, **vars(params)).about() == make().about()
    with pytest.raises(ParamsError, match=r"pose.widths"):
        build(PoseParams, SIZES | {"widths": []}, "pose")
    with pytest.raises(ParamsError, match=r"pose.normalise"):
        build(PoseParams, SIZES | {"normalise": "image"}, "pose")


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ParamsError, match=r"pose.widths: 2 of them .* grid of 30 cells a side .* a multiple of 4\."):
        PoseVAE(30, **SIZES)
    with pytest.raises(ParamsError, match=r"pose.widths: \[8, 18\] must be multiples of pose.groups, 4\."):
        make(widths=(8, 18))
    assert PoseVAE(12, **SIZES).encode(torch.rand(1, 1, 12, 12))[0].shape == (1, 5)
