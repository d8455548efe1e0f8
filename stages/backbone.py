"""Train the small diffusion model on the training crops, or pin an existing one by content hash."""

from pathlib import Path

import numpy as np
import torch

from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import write_json
from uld.artifacts.index import read_index
from uld.base import params, random, stop
from uld.base.writing import atomic_folder
from uld.diffusion import pinned, training
from uld.images.crops import Crops

OUT = Path("artifacts/backbone")
METRICS = Path("metrics/backbone.json")


def main() -> None:
    name = params.read(str, "backbone")
    kinds = training.TrainParams | pinned.PinnedParams | pinned.NoBackboneParams
    block = params.read(kinds, f"backbones.{name}")
    if not isinstance(block, training.TrainParams):
        write_json(OUT / pinned.REFERENCE, pinned.pin(block) if isinstance(block, pinned.PinnedParams) else {})
        write_json(METRICS, {})
        return
    crops = Crops(Path("artifacts/roi/crops.zarr"))
    boxes = read_boxes(Path("artifacts/roi/boxes.csv"))
    seed = params.read(int, "seed")
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    rows = np.sort(random.rng(seed, "backbone-images").permutation(rows)[: block.images])
    index = read_index(Path("artifacts/data/index.csv")).set_index("image")
    groups = index.loc[boxes["image"].to_numpy()[rows], "group"].fillna("").to_numpy()
    pixels = torch.from_numpy(crops.images(rows)).permute(0, 3, 1, 2)
    with atomic_folder(OUT) as building:
        figures = training.train(building, pixels, groups, block, seed, crops.fingerprint())
        write_json(building / pinned.REFERENCE, pinned.seal(building))
    write_json(METRICS, figures)


if __name__ == "__main__":
    stop.run(main)
