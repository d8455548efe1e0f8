"""Label-free scores of landmarks as they are found."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.base import progress
from uld.cluster.quality import SAMPLE, scores
from uld.geometry import sampling
from uld.geometry.frames import Rows
from uld.methods.base import Task


def of_landmarks(task: Task, find: Callable[[Rows], NDArray[np.float32]]) -> dict[str, float]:
    """Silhouette and Calinski-Harabasz score of the landmarks' descriptors, an image a point of each cluster.

    What methods cluster differs (pixels, detections); this does not, so methods compare (table 3 of D-ULD++).

    Args:
        task: its generator draws the images, where there are more points than `SAMPLE`.
        find: rows (B,) -> dense landmarks (B, K, 2) in cells of the plain view.
    """
    source, rows = task.source, task.rows
    count = find(rows[:1]).shape[1]
    if not count:
        return {}
    chosen = np.sort(task.rng.choice(rows, min(len(rows), max(1, SAMPLE // count)), replace=False))
    parts = []
    for batch in progress.batches("scoring", chosen):
        maps = source.describe(batch, source.views.plain)
        at = torch.from_numpy(find(batch)).to(maps.device)
        parts.append(F.normalize(sampling.sample(maps, at), dim=2).cpu().numpy())
    found = np.concatenate(parts)
    both = scores(found.reshape(-1, found.shape[2]), np.tile(np.arange(count), len(found)))
    return {f"landmark_{name}": value for name, value in both.items()}
