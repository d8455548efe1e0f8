"""Train the small diffusion model on the training crops, or pin an existing one by content hash."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_table, write_json
from uld.base import params, random, stop
from uld.diffusion import pinned, training
from uld.images.crops import Crops

OUT = Path("artifacts/backbone")
METRICS = Path("metrics/backbone.json")


def main() -> None:
    name = params.read(str, "backbone")
    block = params.read(training.TrainParams | pinned.PinnedParams, f"backbones.{name}")
    OUT.mkdir(parents=True, exist_ok=True)
    if isinstance(block, pinned.PinnedParams):
        (OUT / pinned.REFERENCE).write_text(json.dumps(pinned.pin(block), indent=1, sort_keys=True) + "\n")
        write_json(METRICS, {})
        return
    crops = Crops(Path("artifacts/roi/crops.zarr"))
    boxes = read_boxes(Path("artifacts/roi/boxes.csv"))
    seed = params.read(int, "seed")
    rows = np.flatnonzero(boxes["split"].to_numpy() == "train")
    rows = np.sort(random.rng(seed, "backbone-images").permutation(rows)[: block.images])
    index = read_table(Path("artifacts/data/index.csv"), "data", text=("image", "group")).set_index("image")
    groups = index.loc[boxes["image"].to_numpy()[rows], "group"].fillna("").to_numpy()
    pixels = torch.from_numpy(crops.images(rows)).permute(0, 3, 1, 2)
    building = OUT / "building"
    shutil.rmtree(building, ignore_errors=True)
    figures = training.train(building, pixels, groups, block, seed, crops.fingerprint())
    for part in building.iterdir():
        shutil.move(part, OUT / part.name)
    building.rmdir()
    write_json(METRICS, figures)


if __name__ == "__main__":
    stop.run(main)
