"""The table of detectors of points, and the grey image they all look at."""

import pytest
import torch

from uld.base.errors import ParamsError
from uld.keypoints import POINTS, load
from uld.keypoints.base import Keypoints, grey


def test_all_names_load() -> None:
    assert {load(name).__name__ for name in POINTS} == {"SuperPoint", "Classical", "Learned", "File"}
    assert all(issubclass(load(name), Keypoints) for name in POINTS)


@pytest.mark.parametrize("name", ["silk", "super_point"])
def test_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(ParamsError, match=f"no detector of points '{name}': choose one of superpoint, classical"):
        load(name)


def test_grey_is_the_luma_of_rgb() -> None:
    pure = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8)
    want = torch.tensor([0.299, 0.587, 0.114])[:, None, None, None].expand(3, 1, 8, 8)
    torch.testing.assert_close(grey(pure, 1), want)


def test_grey_is_enlarged_by_half_pixels() -> None:
    x = torch.arange(8.0).expand(1, 3, 8, 8)
    fine = (torch.arange(32) + 0.5) / 4 - 0.5
    got = grey(x, 4)
    assert got.shape == (1, 1, 32, 32)
    torch.testing.assert_close(got[0, 0], fine.clamp(0, 7).expand(32, 32))
