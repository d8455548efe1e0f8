"""Descriptors that have all become alike are refused."""

import math

import pytest
import torch
from torch import Tensor

from uld.base.errors import ULDError
from uld.models.headed import refuse_collapse


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
