"""Baseline without landmarks: its forward error is what predicting the mean training shape for every image costs."""

from pydantic.dataclasses import dataclass

from uld.artifacts.found import Found
from uld.artifacts.landmarks import Landmarks
from uld.base.params import CLOSED
from uld.geometry.frames import Rows
from uld.methods.base import Discovery, Method, Task
from uld.sources.source import Source
from uld.sources.views import View


@dataclass(frozen=True, config=CLOSED)
class MeanShapeParams:
    """The mean shape has no params."""


class MeanShape(Method):
    """K = 0 landmarks: a regressor from them has nothing but its intercept, the mean shape."""

    Cluster = MeanShapeParams
    fewest = 0
    params: MeanShapeParams

    # --- discover ---

    def discover(self, task: Task) -> Discovery:
        """No landmark and no figure."""
        return Discovery(Landmarks.none(), {})

    # --- find ---

    def find(self, source: Source, landmarks: Landmarks, rows: Rows, view: View) -> Found:
        """Nothing in any image."""
        return Found.absent(len(rows), 0)
