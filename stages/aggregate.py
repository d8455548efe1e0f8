"""Freeze the trunk of one start: store its maps of every image and view, and make the start whose model reads them."""

import sys
from dataclasses import replace
from pathlib import Path

from uld.artifacts.files import sha256
from uld.artifacts.models import WEIGHTS, save_model
from uld.base import params, ranks, runtime
from uld.diffusion import aggregated
from uld.diffusion.store import FeatureStore
from uld.sources.opened import open_model
from uld.sources.stored_views import StoredViews


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(aggregated.AggregatedParams, f"aggregated.{key}")
    opened = open_model(chosen.start)
    model = aggregated.frozen_trunk(opened.model, chosen.start)
    assert isinstance(opened.views, StoredViews), "a model with an aggregator reads features"
    path = Path(f"artifacts/features/{key}.zarr")
    weights = sha256(Path(f"artifacts/rounds/{chosen.start}") / WEIGHTS)
    aggregated.fill(path, opened.views.store, model, weights, key)
    if not runtime.process():
        # its rounds are trained on the maps that are stored: drawn views would run the network that it is to spare
        origin = replace(opened.origin, reads=f"features/{key}", made_of=FeatureStore(path).digest, views=None)
        save_model(model, Path(f"artifacts/rounds/{key}"), origin)


if __name__ == "__main__":
    ranks.divided(main)
