"""`annotation`: the box of the annotated points. Ground truth: used only where roi.providers names it."""

import warnings

import numpy as np
from pydantic.dataclasses import dataclass

from uld.artifacts.annotations import read_annotations
from uld.base.errors import ParamsError
from uld.base.params import CLOSED
from uld.images import Pixels
from uld.roi.base import Box, Context, Provider


@dataclass(frozen=True, config=CLOSED)
class AnnotationParams:
    """`set`: the mark-up whose points are boxed."""

    set: str


class Annotation(Provider):
    """Smallest box over the pixels of an image's points; images without two distinct points have none."""

    Params = AnnotationParams
    general = False

    def __init__(self, params: AnnotationParams, context: Context) -> None:
        """Read the points.

        Raises:
            ParamsError: the data set has no mark-up of that name.
        """
        annotations = read_annotations(context.annotations)
        if params.set not in annotations.sets:
            there = ", ".join(annotations.sets) or "none at all"
            raise ParamsError(
                f"roi_providers.annotation.set: the data have no mark-up '{params.set}'; there is {there}."
            )
        self.label = f"annotation:{params.set}"
        self._row = {name: row for row, name in enumerate(annotations.images)}
        xy = annotations.sets[params.set].xy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # an image without points gives NaN, which detect() drops
            self._low, self._high = np.nanmin(xy, axis=1), np.nanmax(xy, axis=1)

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        """See `Provider.detect`."""
        return [self._box(self._row[name]) if name in self._row else None for name in ids]

    def _box(self, row: int) -> Box | None:
        low, high = self._low[row], self._high[row]
        if not (high > low).any():
            return None
        return Box.of(np.concatenate([low - 0.5, high + 0.5]), 1.0)
