"""Centroids of exemplars, and which landmarks stay put.

k-means centres a cluster on all that falls into it, background included, so its exemplar may jump between two parts
that look alike. The mean over exemplars, one an image, is drawn to the part that most of them show; and a landmark that
jumps betrays itself without labels: turn the image, and it is found elsewhere.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from uld.artifacts.labels import Labels
from uld.geometry import sampling
from uld.landmarks.seen import Seen, keep, matches
from uld.sources.source import Source


def recentre(kept: list[Seen], centroids: NDArray[np.float32], times: int) -> NDArray[np.float32]:
    """Centroids (K, D), moved `times` times to the mean descriptor of their dense matches in all kept images."""
    for _ in range(times):
        centroids = np.concatenate([matches(one, centroids)[1] for one in kept]).mean(0)
    return centroids


def equivariance_error(source: Source, plain: Seen, centroids: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far (K,) a landmark is found from itself in other views of the same image: mean, in cells of the plain view.

    0 where there is no other view that turns or scales the image.

    Args:
        plain: images as they are.
    """
    turned = source.views.turned
    if not turned:
        return np.zeros(len(centroids))
    here = source.to_image(plain.rows, matches(plain, centroids)[0], plain.view)
    # one cell of each image in its own pixels
    cell = source.to_image(
        plain.rows, np.tile(np.array([[0, 0], [1, 0]], np.float32), (len(plain.rows), 1, 1)), plain.view
    )
    size = np.linalg.norm(cell[:, 1] - cell[:, 0], axis=1)[:, None]
    seen = (keep(source, plain.rows, view, heat=False) for view in turned)
    found = (source.to_image(one.rows, matches(one, centroids)[0], one.view) for one in seen)
    off = [np.linalg.norm(xy - here, axis=2) for xy in found]
    return np.asarray((np.mean(off, axis=0) / size).mean(0))


def means_at(kept: list[Seen], source: Source, labels: Labels, count: int) -> NDArray[np.float32]:
    """Mean descriptors (K, D) at the places that labels of an earlier round name: its clusters, as they look now.

    A landmark that no kept image shows gets zeros.
    """
    total, seen = np.zeros((count, kept[0].descriptors.shape[1])), np.zeros(count)
    for one in kept:
        at = np.flatnonzero(labels.flipped == one.view.flipped)
        at = at[np.isin(labels.image[at], one.rows)]
        place = np.searchsorted(one.rows, labels.image[at])
        cells = source.to_cells(labels.image[at], labels.xy[at][:, None], one.view)
        maps = one.descriptors
        index, xy = (torch.from_numpy(value).to(maps.device) for value in (place, cells[:, 0]))
        found = F.normalize(sampling.sample_each(maps, index, xy), dim=1)
        np.add.at(total, labels.label[at], found.cpu().numpy())
        seen += np.bincount(labels.label[at], minlength=count)
    return (total / np.maximum(seen, 1)[:, None]).astype(np.float32)
