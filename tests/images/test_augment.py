"""Changes of light: each as a plain loop over images and pixels has it, and all of them drawn beforehand."""

import colorsys
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from kornia import enhance
from scipy.ndimage import correlate1d

from uld.base import params
from uld.base.errors import ParamsError
from uld.images import augment
from uld.images.augment import Draws, draw, photometric
from uld.images.light import PhotometricParams

SIZE, COUNT = 16, 6
OFF: dict[str, Any] = {
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "hue": 0,
    "gamma": 0,
    "blur": {"sigma": 0, "probability": 1},
    "noise": 0,
    "cutout": {"side": 0, "probability": 1},
}
ON: dict[str, Any] = {
    "brightness": 0.4,
    "contrast": 0.5,
    "saturation": 0.6,
    "hue": 0.3,
    "gamma": 0.5,
    "blur": {"sigma": 1.5, "probability": 0.6},
    "noise": 0.1,
    "cutout": {"side": 0.3, "probability": 0.6},
}


def block(**values: Any) -> PhotometricParams:
    return params.build(PhotometricParams, OFF | values, "light")


def images(count: int = COUNT, size: int = SIZE) -> torch.Tensor:
    out = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    out[0, :, :4] = 0.3  # grey, black and white have no hue
    out[0, :, 4], out[0, :, 5] = 0, 1
    return out


def grey(image: np.ndarray) -> np.ndarray:
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]


def plain(image: np.ndarray, name: str, drawn: Draws, item: int) -> np.ndarray:
    """One image (3, S, S) changed by one kind of change, pixel by pixel where that is shorter."""
    value = getattr(drawn, name)[item]
    if name == "brightness":
        return np.clip(image * value, 0, 1)
    if name == "contrast":
        return np.clip(grey(image).mean() + value * (image - grey(image).mean()), 0, 1)
    if name == "saturation":
        return np.clip(grey(image) + value * (image - grey(image)), 0, 1)
    if name == "gamma":
        return image**value
    if name == "noise":
        return np.clip(image + value, 0, 1)
    if name == "covered":
        return np.where(value, augment.GREY, image)
    if name == "sigma":
        at = np.arange(-drawn.radius, drawn.radius + 1)
        kernel = np.exp(-(at**2) / (2 * value**2)) if value else (at == 0).astype(float)
        kernel /= kernel.sum()
        return correlate1d(correlate1d(image, kernel, 1, mode="mirror"), kernel, 2, mode="mirror")
    out = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*image[:, y, x])
        out[:, y, x] = colorsys.hsv_to_rgb((h + value / (2 * np.pi)) % 1, s, v)
    return out


ORDER = {
    "brightness": "brightness",
    "contrast": "contrast",
    "saturation": "saturation",
    "hue": "hue",
    "gamma": "gamma",
    "blur": "sigma",
    "noise": "noise",
    "cutout": "covered",
}


@pytest.mark.parametrize("name", ORDER)
def test_each_change_is_the_plain_one(name: str) -> None:
    drawn = draw(block(**{name: ON[name]}), COUNT, SIZE, np.random.default_rng(1))
    arrays = [field.name for field in fields(Draws) if isinstance(getattr(drawn, field.name), np.ndarray)]
    assert arrays == [ORDER[name]]
    before = images()
    found = photometric(before, drawn)
    for item in range(COUNT):
        want = plain(before[item].double().numpy(), ORDER[name], drawn, item)
        np.testing.assert_allclose(found[item], want, atol=2e-6)
    assert not torch.equal(found, before) and torch.equal(before, images())


def test_all_changes_in_order() -> None:
    drawn = draw(block(**ON), COUNT, SIZE, np.random.default_rng(1))
    found = photometric(images(), drawn)
    for item in range(COUNT):
        want = images()[item].double().numpy()
        for name in ORDER.values():
            want = plain(want, name, drawn, item)
        np.testing.assert_allclose(found[item], want, atol=5e-6)
    assert found.min() >= 0 and found.max() <= 1


def test_off_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    drawn, before = draw(block(), COUNT, SIZE, rng), images()
    assert photometric(before, drawn) is before
    assert rng.random() == np.random.default_rng(0).random()
    never = {"blur": {"sigma": 1, "probability": 0}, "cutout": {"side": 0.5, "probability": 0}}
    assert photometric(before, draw(block(**never), COUNT, SIZE, rng)) is before


def test_hue_is_kornias() -> None:
    turn = torch.linspace(-np.pi, np.pi, COUNT)
    torch.testing.assert_close(augment.turn_hue(images(), turn), enhance.adjust_hue(images(), turn), rtol=0, atol=2e-6)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(block(**ON), COUNT, SIZE, np.random.default_rng(1))
    whole = photometric(images(), drawn)
    monkeypatch.setattr(augment, "PIECE", 2 * 3 * SIZE**2)
    assert torch.equal(photometric(images(), drawn), whole)
    some = np.array([4, 1])
    assert torch.equal(photometric(images()[some], drawn.take(some)), whole[some])


def test_the_same_numbers_out_of_the_same_generator() -> None:
    one, other, third = (draw(block(**ON), COUNT, SIZE, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(photometric(images(), one), photometric(images(), other))
    assert not torch.equal(photometric(images(), one), photometric(images(), third))


def test_ranges() -> None:
    drawn = draw(block(**ON), 2000, SIZE, np.random.default_rng(0))
    for name in ("brightness", "contrast", "saturation"):
        values = getattr(drawn, name)
        assert 1 - ON[name] <= values.min() < 1 - 0.95 * ON[name] and 1 + 0.95 * ON[name] < values.max() <= 1 + ON[name]
    assert drawn.hue is not None and 0.95 < np.abs(drawn.hue).max() / (0.6 * np.pi) <= 1
    assert drawn.gamma is not None and 0.45 < (drawn.gamma > 1).mean() < 0.55
    assert 1 / 1.5 <= drawn.gamma.min() < 0.69 and 1.45 < drawn.gamma.max() <= 1.5 + 1e-6
    assert drawn.sigma is not None and 0.57 < (drawn.sigma > 0).mean() < 0.63 and 1.45 < drawn.sigma.max() <= 1.5
    assert drawn.noise is not None and 0.095 < drawn.noise.std((1, 2, 3)).max() < 0.11
    assert drawn.covered is not None
    covered = drawn.covered.sum((1, 2))
    assert set(covered) == {0, 25} and 0.57 < (covered > 0).mean() < 0.63
    assert (drawn.covered.any(0)).all()  # also the corners


def test_noise_is_gaussian() -> None:
    drawn = draw(block(noise=0.1), 40, 64, np.random.default_rng(0))
    assert drawn.noise is not None and drawn.noise.dtype == np.float32
    unit = (drawn.noise / drawn.noise.std((1, 2, 3), keepdims=True)).ravel()
    assert abs(unit.mean()) < 0.01 and abs((unit**3).mean()) < 0.02 and abs((unit**4).mean() - 3) < 0.15
    assert abs(np.corrcoef(unit[:-1], unit[1:])[0, 1]) < 0.01


def test_a_blur_that_is_wider_than_the_view() -> None:
    found = photometric(
        images(size=8), draw(block(blur={"sigma": 9, "probability": 1}), COUNT, 8, np.random.default_rng())
    )
    assert found.isfinite().all()


def test_nothing_is_drawn_for_no_views() -> None:
    assert photometric(images()[:0], draw(block(**ON), 0, SIZE, np.random.default_rng())).shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    "values", [{"hue": 0.6}, {"brightness": -0.1}, {"blur": {"sigma": 1}}, {"cutout": {"side": 2, "probability": 1}}]
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match="light"):
        block(**values)


def test_draws_are_replaced_as_a_whole() -> None:
    drawn = replace(draw(block(**ON), 3, SIZE, np.random.default_rng(0)), noise=None)
    assert drawn.take(slice(1, 3)).noise is None and drawn.take(slice(1, 3)).radius == drawn.radius == 5
