"""What training sees at a time: B views, where they lie in their crops, and which of their cells show the object."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uld.geometry.warps import Warp

Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """B views.

    Attributes:
        rows: (B,), lines of boxes.csv.
        inputs: what a model reads of the b views that this process takes (all, where there is one process): pixels
            (b, 3, S, S) in [0, 1], or feature maps {name: (b, C, h, w)}.
        warp: of all B, crop -> view.
        flipped: (B,), whether a view is mirrored.
        inside: (B, G, G) bool, cells whose centre lies in the photograph and in the object box.
    """

    rows: NDArray[np.int64]
    inputs: Inputs
    warp: Warp
    flipped: NDArray[np.bool_]
    inside: Tensor
