"""Linear maps between discovered and annotated landmarks, in closed form from Gram matrices."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uld.base import random
from uld.evaluate.cases import Array, Case, present
from uld.evaluate.completion import column_means, complete, svt
from uld.evaluate.protocols import Protocol, label


@dataclass(frozen=True)
class Regressor:
    """R maps, one a repeat: maps (R, 2I + 1, 2O) with the intercept in the last row; fill (R, 2I) for absent inputs."""

    maps: Array
    fill: Array

    def predict(self, repeat: int, inputs: Array) -> Array:
        """Points (N, O, 2) that repeat `repeat` predicts from points `inputs` (N, I, 2), NaN = absent."""
        flat = _flat(inputs)
        filled = np.where(np.isfinite(flat), flat, self.fill[repeat])
        return (filled @ self.maps[repeat, :-1] + self.maps[repeat, -1]).reshape(len(flat), -1, 2)


def fit(inputs: Array, outputs: Array, rows: NDArray[np.int64], ridge: float, protocol: Protocol) -> Regressor:
    """Ridge regression of points on points, for R draws of training rows at once.

    With X, Y the (centred) rows of a draw: W = (X'X + ridge * max(X'X) * I)^+ X'Y. The decay is relative to the largest
    entry, so W does not depend on the unit of length (rule of KeypointsToLandmarks). A point that is absent in some
    images is fitted on those that have it.

    Args:
        inputs: (N, I, 2), I may be 0: then the map is the mean of the outputs.
        outputs: (N, O, 2), NaN = absent.
        rows: (R, n) rows of both, a draw each.
        ridge: relative decay.
        protocol: says whether data are centred and how gaps of the inputs are filled.

    Returns:
        The regressor; NaN maps for an output that no row of a draw has.
    """
    x, fill = _fill(_flat(inputs)[rows], protocol)
    y = _flat(outputs)[rows]
    there = present(outputs)[rows]
    maps = np.empty((len(rows), x.shape[2] + 1, y.shape[2]))
    for columns, mask in _same_mask(there):
        chosen = np.repeat(2 * columns, 2) + np.tile([0, 1], len(columns))
        maps[:, :, chosen] = _solve(x, np.where(mask[..., None], y[:, :, chosen], 0), mask, ridge, protocol.centred)
    return Regressor(maps, fill)


def _flat(points: NDArray[Any]) -> Array:
    """(N, P, 2) -> (N, 2P); a point with one NaN coordinate is absent as a whole."""
    kept = np.where(present(points)[..., None], points, np.nan)
    return kept.reshape(len(points), 2 * points.shape[1])


def _fill(x: Array, protocol: Protocol) -> tuple[Array, Array]:
    """Training inputs (R, n, D) without gaps, and what fills a gap at test time (R, D): the training mean, or 0.

    It is the mean of the completed column, with `svt` that of its observed entries.
    """
    if protocol.fill == "zero":
        return np.nan_to_num(x, nan=0.0), np.zeros((x.shape[0], x.shape[2]))
    if protocol.fill == "svt":
        return np.stack([svt(one, protocol.unit or 1.0) for one in x]), np.stack([column_means(one) for one in x])
    filled = np.stack([complete(one) for one in x])
    return filled, filled.mean(axis=1)


def _same_mask(there: NDArray[np.bool_]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Output points (R, n, O) grouped by the rows that have them: [(points, mask (R, n))]."""
    if not there.shape[2]:
        return []
    packed = np.packbits(there.reshape(-1, there.shape[2]), axis=0)
    _, first, group = np.unique(packed, axis=1, return_index=True, return_inverse=True)
    return [(np.flatnonzero(group.ravel() == number), there[:, :, one]) for number, one in enumerate(first)]


def _solve(x: Array, y: Array, mask: NDArray[np.bool_], ridge: float, centred: bool) -> Array:
    """Affine maps (R, D + 1, O) from x (R, n, D) to y (R, n, O), on the rows in mask (R, n); y is 0 elsewhere."""
    weight = mask[:, :, None].astype(np.float64)
    count = weight.sum(axis=1, keepdims=True)
    used = x * weight
    mean_x = used.sum(axis=1, keepdims=True) / np.maximum(count, 1) * centred
    mean_y = y.sum(axis=1, keepdims=True) / np.maximum(count, 1) * centred
    used = (x - mean_x) * weight
    transposed = used.swapaxes(1, 2)
    gram = transposed @ used
    gram += ridge * gram.max(axis=(1, 2), keepdims=True, initial=0) * np.eye(x.shape[2])
    # the pseudo-inverse also serves landmarks that never move, doubled ones, and fewer rows than inputs
    linear = np.linalg.pinv(gram, hermitian=True) @ (transposed @ (y - mean_y))
    maps = np.concatenate([linear, mean_y - mean_x @ linear], axis=1)
    return np.where(count > 0, maps, np.nan)


def draw(case: Case, seed: int) -> dict[str, NDArray[np.int64]]:
    """The training rows (R, n) of each number of rows of the protocol that the data can serve.

    Exactly n rows (plus the protocol's surplus). One draw if that is all there are. The draws depend on the seed and on
    the annotated images alone, so all rows of the table see the same ones.
    """
    draws = {}
    for number, count in case.protocol.served(len(case.pool)).items():
        if count == len(case.pool):
            draws[label(number)] = case.pool[None]
        else:
            rng = random.rng(seed, "regress", number)
            picks = [rng.permutation(case.pool)[:count] for _ in range(case.protocol.repeats)]
            draws[label(number)] = np.sort(np.stack(picks), axis=1)
    return draws


def regress(case: Case, seed: int) -> dict[str, NDArray[Any]]:
    """Arrays of artifacts/regressors/<row>.h5 for one case (docs/artifacts.md); no backward map where K = 0."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, rows in draw(case, seed).items():
        prefix = "/".join([*case.key, name])
        arrays[f"{prefix}/train"] = rows
        forward = fit(case.landmarks, case.annotated, rows, case.protocol.ridge, case.protocol)
        arrays[f"{prefix}/forward"], arrays[f"{prefix}/forward_fill"] = forward.maps, forward.fill
        if case.landmarks.shape[1]:
            backward = fit(case.annotated, case.landmarks, rows, case.protocol.ridge_backward, case.protocol)
            arrays[f"{prefix}/backward"], arrays[f"{prefix}/backward_fill"] = backward.maps, backward.fill
    return arrays
