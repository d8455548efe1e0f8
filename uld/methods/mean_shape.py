"""Baseline without landmarks: its forward error is what predicting the mean training shape for every image costs."""

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from uld.artifacts.labels import Labels
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.methods.base import Discovery, Found, Method, Source


@dataclass(frozen=True, config=CLOSED)
class MeanShapeParams:
    """The mean shape has no params."""


class MeanShape(Method):
    """K = 0 landmarks: a regressor from them has nothing but its intercept, the mean shape."""

    Params = MeanShapeParams

    def __init__(self, params: MeanShapeParams) -> None:
        self.params = params

    # --- discover ---

    def discover(
        self,
        source: Source,
        rows: NDArray[np.int64],
        count: int,
        rng: np.random.Generator,
        previous: Labels | None = None,
    ) -> Discovery:
        """No landmark and no figure."""
        landmarks = Landmarks(
            centroids=np.empty((0, 0), dtype=np.float32),
            counts=np.empty(0, dtype=np.int64),
            exemplar_image=np.empty((0, 0), dtype=np.int64),
            exemplar_xy=np.empty((0, 0, 2), dtype=np.float32),
            sample=np.empty((0, 0), dtype=np.float16),
            sample_label=np.empty(0, dtype=np.int64),
        )
        return Discovery(landmarks, {})

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: NDArray[np.int64], view: int = 0) -> Found:
        """Nothing in any image."""
        xy = np.empty((len(rows), 0, 2), dtype=np.float32)
        score = np.empty((len(rows), 0), dtype=np.float32)
        return Found(xy, score, xy, score)
