"""Normalised mean errors of the forward (discovered -> annotated) and backward (annotated -> discovered) maps.

Errors are shares of the normaliser, (R, N, P): R repeats of the regressor, N test images, P points, NaN where a point
is absent. NME are percent.
"""

import numpy as np
from numpy.typing import NDArray

from uld.evaluate.cases import Array, Case
from uld.evaluate.regressors import Regressor

LEVEL = 0.95
BLOCK = 4_000_000  # resampled images held at once


def forward_errors(case: Case, regressor: Regressor) -> NDArray[np.float32]:
    """Errors (R, N, P) of annotated points predicted from discovered ones, on the test images."""
    return _errors(regressor, case.landmarks[case.test], case.annotated[case.test], case.normaliser[case.test])


def backward_errors(case: Case, regressor: Regressor) -> NDArray[np.float32]:
    """Errors (R, N, K) of discovered landmarks predicted from annotated ones, on the test images that have them."""
    return _errors(regressor, case.annotated[case.test], case.landmarks[case.test], case.normaliser[case.test])


def _errors(regressor: Regressor, inputs: Array, target: Array, normaliser: Array) -> NDArray[np.float32]:
    out = np.empty((len(regressor.maps), *target.shape[:2]), dtype=np.float32)
    for repeat in range(len(out)):
        distance = np.linalg.norm(regressor.predict(repeat, inputs) - target, axis=2)
        out[repeat] = distance / normaliser[:, None]
    return out


def mean(values: NDArray[np.floating], axis: int) -> Array:
    """Mean over the entries that are not NaN; NaN where there is none."""
    there = ~np.isnan(values)
    count = there.sum(axis=axis)
    total = np.where(there, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def landmark_nme(errors: NDArray[np.floating]) -> Array:
    """NME (P,) in percent of each point, over the images that have it."""
    return 100 * mean(mean(errors, 0), 0)


def image_nme(errors: NDArray[np.floating]) -> Array:
    """NME (N,) of each image as a share (not percent), over the points it has and over repeats."""
    return mean(mean(errors, 0), 1)


def nme(errors: NDArray[np.floating]) -> float:
    """The mean of `landmark_nme`, percent; NaN if no point has an error."""
    return float(mean(landmark_nme(errors), 0))


def interval(errors: NDArray[np.floating], draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap of `nme` over images: low and high end of the 95 % interval, percent.

    A resample is a vector of image counts, so a block of resamples is two matrix products whatever P is, and memory is
    bounded whatever N is. The same generator state gives the same resamples, so intervals of two rows are paired.
    """
    values = mean(errors, 0)
    images = len(values)
    there = ~np.isnan(values)
    if not there.any():
        return float("nan"), float("nan")
    filled, weights = np.where(there, values, 0).astype(np.float32), there.astype(np.float32)
    results: list[Array] = []
    block = max(1, BLOCK // images)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        picks = rng.integers(images, size=(size, images)) + np.arange(size)[:, None] * images
        counts = np.bincount(picks.ravel(), minlength=size * images).reshape(size, images).astype(np.float32)
        seen = counts @ weights
        sums = counts @ filled
        results.append(mean(np.where(seen > 0, sums / np.maximum(seen, 1), np.nan), 1))
    low, high = np.nanquantile(100 * np.concatenate(results), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
