"""Make one head on the frozen features, the model that rounds and table rows start from, and gate its quality."""

import sys
from pathlib import Path

import numpy as np

from uld import artifacts, models, params, ranks, runtime
from uld.bootstrap import BootstrapParams, bootstrap, teacher
from uld.crops import Crops
from uld.features import gates, source
from uld.features.online import open_store
from uld.models import frozen
from uld.models.frozen import FrozenParams


def main() -> None:
    key = sys.argv[1]
    block = params.read(FrozenParams | BootstrapParams, f"starts.{key}")
    seed = params.read(int, "seed")
    store = open_store(Path(f"artifacts/features/{block.features}.zarr"))
    crops = Crops(Path("artifacts/roi/crops.zarr"))
    boxes = artifacts.read_boxes(Path("artifacts/roi/boxes.csv"))
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    out = Path(f"artifacts/rounds/{key}")
    head: models.Head
    if isinstance(block, FrozenParams):
        place = source.frames(store, crops, boxes, block.grid)
        chosen = np.sort(runtime.rng(seed, f"head-{key}").permutation(rows)[: block.images])
        head = frozen.fit(block, store.read, place.inside, chosen, runtime.rng(seed, "head-points"))
    else:
        place = source.frames(store, crops, boxes, block.projection.grid)
        taught = params.read(teacher(block.keypoints), f"keypoints.{block.keypoints}")
        head, history = bootstrap(block, taught, store, place, crops, rows, seed, key)
        if not runtime.process():
            artifacts.write_table(out / "training.csv", history)
    if runtime.process():
        return  # all have the same model
    models.save(head, out, store.spec["backbone"])
    tried = gates.sample(rows)
    figures = gates.measure(source.from_store(store, head, crops, boxes), tried, runtime.rng(seed, "gates"))
    baseline = gates.measure(gates.colour(crops, place, store.mirrored), tried, runtime.rng(seed, "gates"))
    figures |= {f"colour_{name}": value for name, value in baseline.items()}
    if figures.get("self_match", 1) <= figures.get("colour_self_match", 0):
        print(f"warning: head {key} matches points no better than plain colour: train longer or use Stable Diffusion.")
    artifacts.write_json(Path(f"metrics/heads/{key}.json"), figures)


if __name__ == "__main__":
    ranks.divided(main)
