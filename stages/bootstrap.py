"""Make one head on the frozen features, the model that rounds and table rows start from, and gate its quality."""

import sys
from pathlib import Path

import numpy as np

from uld import models
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import write_json, write_table
from uld.base import params, random, ranks, runtime
from uld.diffusion.online import open_store
from uld.images.crops import Crops
from uld.models import frozen
from uld.models.frozen import FrozenParams
from uld.sources import checks, source
from uld.sources.source import frames
from uld.training.bootstrap import BootstrapParams, bootstrap, teacher


def main() -> None:
    key = sys.argv[1]
    block = params.read(FrozenParams | BootstrapParams, f"starts.{key}")
    seed = params.read(int, "seed")
    store = open_store(Path(f"artifacts/features/{block.features}.zarr"))
    crops = Crops(Path("artifacts/roi/crops.zarr"))
    boxes = read_boxes(Path("artifacts/roi/boxes.csv"))
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    out = Path(f"artifacts/rounds/{key}")
    head: models.Head
    if isinstance(block, FrozenParams):
        place = frames(store, crops, boxes, block.grid)
        chosen = np.sort(random.rng(seed, f"head-{key}").permutation(rows)[: block.images])
        head = frozen.fit(block, store.read, place.inside, chosen, random.rng(seed, "head-points"))
    else:
        place = frames(store, crops, boxes, block.projection.grid)
        taught = params.read(teacher(block.keypoints), f"keypoints.{block.keypoints}")
        head, history = bootstrap(block, taught, store, place, crops, rows, seed, key)
        if not runtime.process():
            write_table(out / "training.csv", history)
    if runtime.process():
        return  # all have the same model
    models.save(head, out, store.spec["backbone"])
    tried = checks.sample(rows)
    figures = checks.measure(source.from_store(store, head, crops, boxes), tried, random.rng(seed, "gates"))
    baseline = checks.measure(
        checks.colour(crops, place, store.flipped[: store.bank]), tried, random.rng(seed, "gates")
    )
    figures |= {f"colour_{name}": value for name, value in baseline.items()}
    if figures.get("self_match", 1) <= figures.get("colour_self_match", 0):
        print(f"warning: head {key} matches points no better than plain colour: train longer or use Stable Diffusion.")
    write_json(Path(f"metrics/heads/{key}.json"), figures)


if __name__ == "__main__":
    ranks.divided(main)
