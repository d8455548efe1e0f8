"""What is read out of the UNet, against plain forward passes written out here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from uld.base.errors import BackboneError
from uld.diffusion import backbone, extractor
from uld.diffusion.backbone import Backbone
from uld.diffusion.extractor import Extractor, ReadoutParams

LAYERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def params(**changes: Any) -> ReadoutParams:
    settings = {
        "layers": LAYERS,
        "timesteps": (20, 300),
        "policy": "add_noise",
        "inversion_steps": 50,
        "dtype": "float32",
    }
    return ReadoutParams(**settings | changes)


def images(count: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def forward(model: Backbone, latent: Tensor, t: int) -> tuple[Tensor, dict[tuple[int, int], Tensor]]:
    """A whole pass of the UNet: its output and what the second convolution of every decoder resnet gave."""
    seen: dict[tuple[int, int], Tensor] = {}
    unet: Any = model.unet
    handles = [
        resnet.conv2.register_forward_hook(lambda module, inputs, out, at=(i, j): seen.update({at: out}))
        for i, block in enumerate(unet.up_blocks)
        for j, resnet in enumerate(block.resnets)
    ]
    more = {} if model.prompt is None else {"encoder_hidden_states": model.prompt.repeat(len(latent), 1, 1)}
    out = unet(latent, torch.full((len(latent),), t), **more).sample
    for handle in handles:
        handle.remove()
    return out, seen


def alpha_of(model: Backbone, t: int) -> Tensor:
    return torch.ones(()) if t == -1 else model.alphas[t]


def compare(got: dict[str, Tensor], t: int, want: dict[tuple[int, int], Tensor]) -> None:
    for (i, j), value in want.items():
        torch.testing.assert_close(got[f"l{i}{j}_t{t}"], value, atol=1e-5, rtol=1e-5)


@pytest.fixture(params=["sd", "v", "pixel"])
def model(request: pytest.FixtureRequest) -> Backbone:
    if request.param == "v":
        return backbone.load(request.getfixturevalue("v_folder"))
    chosen: Backbone = request.getfixturevalue(request.param)
    return chosen


# --- values ---


def test_clean_feeds_the_latent_itself(model: Backbone) -> None:
    batch = images(3, model.image_size)
    got = Extractor(model, params(policy="clean", timesteps=(-1, 0, 250)), 0)(batch)
    assert len(got) == 3 * len(LAYERS)
    for t in (-1, 0, 250):
        compare(got, t, forward(model, model.codec(batch * 2 - 1), t)[1])


def test_add_noise_follows_the_schedule_and_shares_the_noise(model: Backbone) -> None:
    batch = images(3, model.image_size)
    reader = Extractor(model, params(), 0)
    got = reader(batch)
    latent = model.codec(batch * 2 - 1)
    for t in (20, 300):
        noise = reader.noise[t]
        assert noise.shape == (1, *latent.shape[1:])
        alpha = model.alphas[t]
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise.repeat(3, 1, 1, 1)
        compare(got, t, forward(model, noisy, t)[1])
    assert abs(reader.noise[300].std() - 1) < 0.15
    assert not torch.allclose(reader.noise[20], reader.noise[300])


def test_inversion_against_its_definition(model: Backbone) -> None:
    """From the clean latent up: noise predicted where the latent is (the source), moved to the next level."""
    batch = images(2, model.image_size)
    got = Extractor(model, params(policy="invert", timesteps=(-1, 100, 200), inversion_steps=10), 0)(batch)
    latent = model.codec(batch * 2 - 1)
    schedule = [-1, 0, 100, 200]
    for t, following in zip(schedule, [*schedule[1:], None], strict=True):
        out, seen = forward(model, latent, t)
        if t in (-1, 100, 200):
            compare(got, t, seen)
        if following is None:
            break
        here, there = alpha_of(model, t), alpha_of(model, following)
        if model.prediction_type == "v_prediction":  # x = sqrt(a) x0 + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x0
            clean = here.sqrt() * latent - (1 - here).sqrt() * out
            noise = here.sqrt() * out + (1 - here).sqrt() * latent
        else:
            noise = out
            clean = (latent - (1 - here).sqrt() * noise) / here.sqrt()
        latent = there.sqrt() * clean + (1 - there).sqrt() * noise


def test_images_are_resized_to_the_model(pixel: Backbone) -> None:
    batch = images(2, 48)
    small = F.interpolate(batch * 2 - 1, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    got = Extractor(pixel, params(policy="clean", timesteps=(0,)), 0)(batch)
    compare(got, 0, forward(pixel, pixel.codec(small), 0)[1])


@pytest.mark.parametrize("policy", ["clean", "add_noise", "invert"])
def test_the_batch_does_not_change_an_image(model: Backbone, policy: str) -> None:
    batch = images(5, model.image_size)
    reader = Extractor(model, params(policy=policy, timesteps=(0, 20)), 0)
    whole = reader(batch)
    for name, value in whole.items():
        alone = torch.cat([reader(one[None])[name] for one in batch])
        torch.testing.assert_close(alone, value, atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_features(pixel: Backbone) -> None:
    batch = images(2, 32)
    one, two, other = (Extractor(pixel, params(timesteps=(300,)), seed)(batch)["l00_t300"] for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other, atol=1e-3)


def test_the_noise_of_a_timestep_does_not_depend_on_the_others(pixel: Backbone) -> None:
    one = Extractor(pixel, params(timesteps=(20, 300)), 0).noise[300]
    assert torch.equal(one, Extractor(pixel, params(timesteps=(300,)), 0).noise[300])


def test_names_and_shapes(pixel: Backbone) -> None:
    reader = Extractor(pixel, params(layers=((1, 0), (0, 1))), 0)
    assert reader.names() == ["l10_t20", "l01_t20", "l10_t300", "l01_t300"]
    got = reader(images(2, 32))
    assert list(got) == reader.names()
    assert {name: tuple(value.shape) for name, value in got.items()} == {
        "l10_t20": (2, 32, 16, 16),
        "l01_t20": (2, 64, 8, 8),
        "l10_t300": (2, 32, 16, 16),
        "l01_t300": (2, 64, 8, 8),
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near_and_comes_out_in_float32(pixel_folder: Any, pixel: Backbone, dtype: str) -> None:
    half = Extractor(backbone.load(pixel_folder, dtype), params(dtype=dtype), 0)(images(2, 32))["l10_t20"]
    full = Extractor(pixel, params(), 0)(images(2, 32))["l10_t20"]
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half.flatten(1), full.flatten(1)).min() > 0.99


# --- what is run ---


def calls(reader: Extractor, batch: Tensor) -> list[int]:
    seen: list[int] = []
    handle = reader.unet.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[1])))
    reader(batch)
    handle.remove()
    return seen


def test_inversion_visits_the_source_timesteps_and_no_more(pixel: Backbone) -> None:
    reader = Extractor(pixel, params(policy="invert", timesteps=(60, -1), inversion_steps=50), 0)
    assert calls(reader, images(1, 32)) == [-1, 0, 20, 40, 60]


def test_inversion_reaches_the_last_level(pixel: Backbone) -> None:
    reader = Extractor(pixel, params(policy="invert", timesteps=(900,), inversion_steps=10), 0)
    assert calls(reader, images(1, 32)) == [-1, *range(0, 1000, 100)]


def test_a_pass_ends_at_the_deepest_layer(pixel: Backbone) -> None:
    unet: Any = pixel.unet
    reached: list[str] = []
    for name, module in (("beyond", unet.up_blocks[1].resnets[0]), ("end", unet.conv_out)):
        module.register_forward_pre_hook(lambda module, inputs, name=name: reached.append(name))
    Extractor(pixel, params(layers=((0, 0), (0, 1))), 0)(images(1, 32))
    assert reached == []
    Extractor(pixel, params(layers=((1, 0), (0, 0)), timesteps=(20,)), 0)(images(1, 32))
    assert reached == ["beyond"]


def test_close_gives_the_network_back(pixel: Backbone) -> None:
    latent = torch.randn(1, 12, 16, 16)
    with torch.no_grad():
        before = pixel.unet(latent, 5).sample
        reader = Extractor(pixel, params(), 0)
        reader(images(1, 32))
        reader.close()
        assert torch.equal(pixel.unet(latent, 5).sample, before)
    assert not any(module._forward_hooks for module in pixel.unet.modules())


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ((0, 0), (2, 0), (1, 5))}, r"layers \[\(2, 0\), \(1, 5\)\] do not exist: .*\(1, 1\)\]"),
        ({"layers": ()}, "readout.layers is empty"),
        ({"timesteps": ()}, "timesteps empty"),
        ({"timesteps": (5, 1000)}, r"timesteps \[1000\]: policy 'add_noise' visits 0..999"),
        ({"timesteps": (0, 30), "policy": "invert"}, r"timesteps \[30\]: policy 'invert' visits \[-1, 0, 20, 40,"),
    ],
)
def test_layers_and_timesteps_that_are_not_there(pixel: Backbone, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Extractor(pixel, params(**changes), 0)
    assert not any(module._forward_hooks for module in pixel.unet.modules())


def test_an_unknown_prediction_type(pixel: Backbone) -> None:
    reader = Extractor(replace(pixel, prediction_type="flow"), params(policy="invert", timesteps=(20,)), 0)
    with pytest.raises(BackboneError, match="prediction_type 'flow' is unknown"):
        reader(images(1, 32))


# --- arithmetic ---


@given(st.floats(0.01, 0.99), st.integers(0, 99))
def test_every_prediction_type_tells_the_same_noise(alpha: float, seed: int) -> None:
    """From x0 and e make x_t, v and the 'sample'; all three must give e back."""
    rng = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=rng, dtype=torch.float64)
    a = torch.tensor(alpha, dtype=torch.float64)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
    for output, kind in ((noise, "epsilon"), (velocity, "v_prediction"), (clean, "sample")):
        torch.testing.assert_close(extractor.to_epsilon(output, noisy, a, kind), noise, atol=1e-8, rtol=0)


@given(st.floats(0.02, 1.0), st.floats(0.02, 1.0), st.integers(0, 99))
def test_a_ddim_step_is_undone_by_its_inverse(alpha: float, other: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=rng, dtype=torch.float64)
    a, b = torch.tensor([alpha, other], dtype=torch.float64)
    here = a.sqrt() * clean + (1 - a).sqrt() * noise
    there = extractor.ddim_step(here, noise, a, b)
    torch.testing.assert_close(there, b.sqrt() * clean + (1 - b).sqrt() * noise, atol=1e-6, rtol=0)
    torch.testing.assert_close(extractor.ddim_step(there, noise, b, a), here, atol=1e-6, rtol=0)
