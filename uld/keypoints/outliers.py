"""Outliers among points: places that look like few others of the data set (Mallis, thesis, 2023, chapter 6)."""

import numpy as np
from numpy.typing import NDArray

from uld.cluster.search import neighbours
from uld.cluster.spool import Table

NEIGHBOURS = 100  # that a point is compared with, itself included
REFERENCES = 100_000  # points among which they are searched; of more, so many are drawn


def typical(descriptors: Table, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which points stay when the `share` of them that has the highest scores is dropped.

    Args:
        descriptors: (N, D) of all points of a data set, N at least 1. share: in [0, 1). rng: as in `scores`.

    Returns:
        (N,), of which at least one is True; points whose scores are equal stay or go together.
    """
    score = scores(descriptors, rng)
    return score <= np.quantile(score, 1 - share, method="lower")


def scores(descriptors: Table, rng: np.random.Generator) -> NDArray[np.float32]:
    """How far each point's descriptor is from those that are most like it.

    Args:
        descriptors: (N, D). rng: draws the points that are compared with, where there are too many for all.

    Returns:
        (N,): median squared L2 distance to the 100 nearest points, or to all where there are fewer.
    """
    count = len(descriptors)
    drawn = np.sort(rng.choice(count, REFERENCES, replace=False)) if count > REFERENCES else slice(None)
    references = descriptors[drawn]
    score = np.empty(count, np.float32)
    for piece, distance, _ in neighbours(descriptors, references, min(NEIGHBOURS, len(references))):
        score[piece] = np.median(distance, axis=1)
    return score
