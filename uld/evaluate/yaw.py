"""The yaw of faces from their 68 annotated points, where a data set does not know it."""

from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.annotations import AnnotationSet

LEAST = 12  # points that an estimate needs
# annotators move the jaw points along with the visible contour, so they say too little of a turn; the chin stays
FIXED = np.array([8, *range(17, 68)])


@cache
def _model() -> NDArray[np.float64]:
    """(68, 3) The points of an average head, x to the right of the image, y down, z towards the viewer.

    They are those of the rest shape of `uld.datasets.heads3d`, kept as a table: scores depend on no renderer.
    """
    with (files("uld.evaluate") / "head68.csv").open() as table:
        return np.loadtxt(table, delimiter=",", skiprows=1)


def from_points(xy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Degrees (n,), positive where the face looks to the right of the image, of faces (n, 68, 2), NaN = absent.

    The affine camera that best shows the points of an average head as annotated: its first row is the direction of x
    in the head, whatever the scale (pose from orthography and scaling; DeMenthon and Davis 1995). NaN where fewer than
    `LEAST` of the points that are `FIXED` to the skin are there.
    """
    model = np.concatenate([_model(), np.ones((68, 1))], 1)[FIXED]
    out = np.full(len(xy), np.nan)
    for i, points in enumerate(xy[:, FIXED]):
        known = np.isfinite(points).all(1)
        if known.sum() >= LEAST:
            camera = np.linalg.lstsq(model[known], points[known].astype(np.float64), rcond=None)[0].T
            out[i] = np.rad2deg(np.arctan2(camera[0, 2], camera[0, 0]))
    return out


def of_images(index: pd.DataFrame, sets: dict[str, AnnotationSet]) -> NDArray[np.float64]:
    """Yaw (n,) of the images of `index`, in its order: its column `yaw`, or else by the annotated points of `sets`."""
    return index["yaw"].to_numpy(dtype=np.float64) if "yaw" in index else of_sets(sets, len(index))


def of_sets(sets: dict[str, AnnotationSet], images: int) -> NDArray[np.float64]:
    """Yaw (n,) by the first mark-up of 68 points, NaN if there is none."""
    faces = [one.xy for one in sets.values() if one.xy.shape[1] == 68]
    return from_points(faces[0]) if faces else np.full(images, np.nan)
