"""Completion of a matrix with gaps by soft-thresholded singular values (soft-impute, Mazumder et al. 2010)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = np.geomspace(0.5, 1e-3, 8)  # thresholds, shares of the largest singular value: each starts from the last
STEPS = 30
TOLERANCE = 1e-4


def column_means(matrix: Array) -> Array:
    """Means (D,) of the observed entries of an (n, D) matrix; 0 for a column without any."""
    observed = np.isfinite(matrix)
    return np.where(observed, matrix, 0).sum(axis=0) / np.maximum(observed.sum(axis=0), 1)


def complete(matrix: Array) -> Array:
    """Fill the NaN entries of an (n, D) matrix with a low-rank guess; observed entries stay as they are.

    D is small (two coordinates a landmark), so each step takes the singular vectors from the D x D Gram matrix and
    costs O(n D^2).
    """
    gaps = ~np.isfinite(matrix)
    if not gaps.any():
        return matrix
    mean = column_means(matrix)
    current = observed = np.where(gaps, 0, matrix - mean)
    largest = np.sqrt(max(np.linalg.eigvalsh(observed.T @ observed)[-1], 0))
    for threshold in LEVELS * largest:
        for _ in range(STEPS):
            squares, vectors = np.linalg.eigh(current.T @ current)
            shrink = np.maximum(1 - threshold / np.sqrt(np.maximum(squares, 1e-300)), 0)
            guess = np.where(gaps, current @ ((vectors * shrink) @ vectors.T), observed)
            change = np.linalg.norm(guess - current)
            current = guess
            if change <= TOLERANCE * np.linalg.norm(current):
                break
    return np.where(gaps, current + mean, matrix)
