"""Landmarks of images, from a method to the file: the one container of what was found."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """Landmarks of B images, in cells of a view as methods find them, in image pixels once `placed`.

    xy (B, K, 2) float32, NaN = not detected, and score (B, K), higher is surer; dense_xy (B, K, 2) and dense_score: the
    best match of each landmark anywhere in the object box, detected or not. Of some methods only: points (B,) int64
    detections in the image; pose (B,) int64, and pose_margin (B,) float32, distance to the nearest pose over that to
    the second nearest, 0 to 1.
    """

    xy: Floats
    score: Floats
    dense_xy: Floats
    dense_score: Floats
    points: NDArray[np.int64] | None = None
    pose: NDArray[np.int64] | None = None
    pose_margin: Floats | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.xy)

    @property
    def filled_xy(self) -> Floats:
        """(B, K, 2): detections where there are some, the best match elsewhere."""
        return np.where(np.isfinite(self.xy), self.xy, self.dense_xy)

    @property
    def filled_score(self) -> Floats:
        """(B, K): scores of `filled_xy`."""
        return np.where(np.isfinite(self.score), self.score, self.dense_score)

    @classmethod
    def absent(cls, images: int, count: int) -> "Found":
        """No landmark, neither detected nor matched, in any of B images."""
        xy, score = np.full((images, count, 2), np.nan, np.float32), np.full((images, count), np.nan, np.float32)
        return cls(xy, score, xy, score)

    def take(self, index: NDArray[np.integer]) -> "Found":
        """Some of the images."""
        return Found(**{name: value[index] for name, value in self.given().items()})

    def put(self, index: NDArray[np.integer], images: int) -> "Found":
        """The same landmarks as those of the images `index` among so many, absent in all others."""
        spread = Found.absent(images, self.xy.shape[1]).given()
        for name, value in spread.items():
            spread[name] = value.copy()
            spread[name][index] = getattr(self, name)
        return Found(**spread)

    def placed(self, move: Callable[[Floats], Floats]) -> "Found":
        """With all positions moved by a function of points (B, K, 2)."""
        return replace(self, xy=move(self.xy), dense_xy=move(self.dense_xy))

    def given(self) -> dict[str, Any]:
        """The arrays by name, without those that the method does not have."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


def joined(parts: list[Found]) -> Found:
    """The images of all parts, at least one, in order."""
    return Found(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in parts[0].given()})
