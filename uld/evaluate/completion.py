"""Completion of a matrix with gaps: soft-impute (Mazumder et al. 2010), and SVT of a peer (Cai et al. 2010)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = np.geomspace(0.5, 1e-3, 8)  # thresholds, shares of the largest singular value: each starts from the last
STEPS = 30
TOLERANCE = 1e-4

SVT_TOLERANCE = 1e-2  # of the observed entries, relative
SVT_STEPS = 1000


def column_means(matrix: Array) -> Array:
    """Means (D,) of the observed entries of an (n, D) matrix; 0 for a column without any."""
    observed = np.isfinite(matrix)
    return np.where(observed, matrix, 0).sum(axis=0) / np.maximum(observed.sum(axis=0), 1)


def complete(matrix: Array) -> Array:
    """Fill the NaN entries of an (n, D) matrix with a low-rank guess; observed entries stay as they are.

    Each step costs O(n D^2).
    """
    gaps = ~np.isfinite(matrix)
    if not gaps.any():
        return matrix
    mean = column_means(matrix)
    current = observed = np.where(gaps, 0, matrix - mean)
    largest = np.sqrt(max(np.linalg.eigvalsh(observed.T @ observed)[-1], 0))
    for threshold in LEVELS * largest:
        for _ in range(STEPS):
            guess = np.where(gaps, _shrunk(current, threshold), observed)
            change = np.linalg.norm(guess - current)
            current = guess
            if change <= TOLERANCE * np.linalg.norm(current):
                break
    return np.where(gaps, current + mean, matrix)


def svt(matrix: Array, unit: float) -> Array:
    """Fill the NaN entries of an (n, D) matrix by singular value thresholding; observed entries stay as they are.

    Cai, Candes and Shen, "A singular value thresholding algorithm for matrix completion", 2010: from Y = 0, in turns
    X = Y with its singular values lowered by tau, and Y += delta (M - X) on the observed entries, until these are met.
    tau and delta are those of KeypointsToLandmarks, which completes coordinates as shares of the image's side. The
    result depends on their unit and origin: tau does not follow them.

    Args:
        matrix: coordinates.
        unit: the length that is 1 while gaps are filled, in the unit of the matrix.
    """
    gaps = ~np.isfinite(matrix)
    if not gaps.any():
        return matrix
    return np.where(gaps, unit * _svt(np.where(gaps, 0, matrix / unit), ~gaps), matrix)


def _svt(known: Array, observed: NDArray[np.bool_]) -> Array:
    """Low-rank X (n, D) near `known` (n, D; 0 in the gaps) where it is observed."""
    rows, columns = known.shape
    tau = 5 * (rows + columns) / 2
    delta = 1.2 * known.size / max(observed.sum(), 1)
    norm = np.linalg.norm(known)
    if norm == 0:
        return known
    # X stays 0 until the largest singular value of Y exceeds tau; the steps up to there are taken at once
    skipped = min(int(tau // (delta * np.linalg.norm(known, 2))) + 1, SVT_STEPS)
    dual, guess = skipped * delta * known, np.zeros_like(known)
    for _ in range(SVT_STEPS - skipped):
        guess = _shrunk(dual, tau)
        rest = np.where(observed, known - guess, 0)
        if np.linalg.norm(rest) < SVT_TOLERANCE * norm:
            break
        dual += delta * rest
    return guess


def _shrunk(matrix: Array, threshold: float) -> Array:
    """An (n, D) matrix with its singular values lowered by a threshold, 0 at the least.

    D is small (two coordinates a landmark), so singular vectors come from the D x D Gram matrix.
    """
    squares, vectors = np.linalg.eigh(matrix.T @ matrix)
    shrink = np.maximum(1 - threshold / np.sqrt(np.maximum(squares, 1e-300)), 0)
    return matrix @ ((vectors * shrink) @ vectors.T)
