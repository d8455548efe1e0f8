"""Make one head on the frozen features, the model that rounds and table rows start from, and gate its quality."""

import sys
from pathlib import Path

import numpy as np

from uld import artifacts, params, runtime
from uld.crops import Crops
from uld.features import gates, source
from uld.features.store import FeatureStore
from uld.models import frozen


def main() -> None:
    key = sys.argv[1]
    block = params.read(frozen.FrozenParams, f"starts.{key}")
    seed = params.read(int, "seed")
    store = FeatureStore(Path(f"artifacts/features/{block.features}.zarr"))
    crops = Crops(Path("artifacts/roi/crops.zarr"))
    boxes = artifacts.read_boxes(Path("artifacts/roi/boxes.csv"))
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    chosen = np.sort(runtime.rng(seed, f"head-{key}").permutation(rows)[: block.images])
    place = source.frames(store, crops, boxes, block.grid)
    head = frozen.fit(block, store.read, place.inside, chosen, runtime.rng(seed, "head-points"))
    head.save(Path(f"artifacts/rounds/{key}"))
    tried = gates.sample(rows)
    figures = gates.measure(source.from_store(store, head, crops, boxes), tried, runtime.rng(seed, "gates"))
    baseline = gates.measure(gates.colour(crops, place, store.mirrored), tried, runtime.rng(seed, "gates"))
    figures |= {f"colour_{name}": value for name, value in baseline.items()}
    if figures.get("self_match", 1) <= figures.get("colour_self_match", 0):
        print(f"warning: head {key} matches points no better than plain colour: train longer or use Stable Diffusion.")
    artifacts.write_json(Path(f"metrics/heads/{key}.json"), figures)


if __name__ == "__main__":
    runtime.run(main)
