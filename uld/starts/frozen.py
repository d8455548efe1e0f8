"""A start without training: descriptors of frozen features, as ZeroShot clusters them."""

import numpy as np

from uld.base import random
from uld.geometry.frames import Rows
from uld.models import frozen
from uld.models.frozen import Frozen, FrozenParams, ProjectionParams
from uld.sources.stored_views import StoredViews
from uld.starts.base import Made, Site, Start
from uld.training.bootstrap import chosen


class FrozenStart(Start):
    """z-scores and PCA of the features of training images."""

    Params = FrozenParams
    params: FrozenParams

    @property
    def grid(self) -> int:
        """G."""
        return self.params.grid

    def make(self, site: Site) -> Made:
        """Fit the projection."""
        rows = chosen(site.views.rows, self.params.images, site.seed, f"head-{site.name}")
        return Made(fit(self.params, site.views, rows, site.seed), None)


def fit(params: ProjectionParams, views: object, rows: Rows, seed: int) -> Frozen:
    """The training-free model of the images `rows` of a feature store."""
    assert isinstance(views, StoredViews), "a training-free model reads features"

    def inside(some: Rows) -> np.ndarray:
        return views.frames.inside(some, views.plain.affine)

    return frozen.fit(params, views.store.read, inside, rows, random.rng(seed, "head-points"))
