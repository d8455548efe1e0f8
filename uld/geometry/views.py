"""Which views of a bank are what: the pure mirror, and those that only turn or scale."""

import numpy as np
from numpy.typing import NDArray

from uld.geometry.coords import Affine


def mirror(views: Affine) -> list[int]:
    """The first view of `views` (V, 2, 3) that mirrors the crop and does nothing else, if there is one."""
    return [v for v in range(len(views)) if np.allclose(views[v, :, :2], np.diag([-1.0, 1.0]))][:1]


def turned(mirrored: NDArray[np.bool_]) -> list[int]:
    """Views but the first, which is the untouched crop, that are not `mirrored` (V,)."""
    return [v for v in range(1, len(mirrored)) if not mirrored[v]]
