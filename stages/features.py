"""Fill one feature store: the backbone's (or, as a baseline, the untrained network's) features of images in views."""

import sys
from pathlib import Path

from uld.artifacts.boxes import read_boxes
from uld.base import params, ranks
from uld.diffusion import backbone, extract
from uld.diffusion.extractor import Extractor, ReadoutParams
from uld.diffusion.reduce import ReduceParams
from uld.geometry import views
from uld.images.crops import Crops


def main() -> None:
    key = sys.argv[1]
    store = params.read(extract.StoreParams, f"stores.{key}")
    readout = params.read(ReadoutParams, "readout")
    seed = params.read(int, "seed")
    folder, crops = Path("artifacts/backbone"), Crops(Path("artifacts/roi/crops.zarr"))
    model = backbone.load(folder, readout.dtype, store.trained)
    extract.fill(
        Path(f"artifacts/features/{key}.zarr"),
        Extractor(model, readout, seed),
        crops,
        read_boxes(Path("artifacts/roi/boxes.csv")),
        store,
        params.read(ReduceParams | None, "reduce"),
        seed,
        views.draw(params.read(views.EvaluationWarps, "evaluate.warps"), seed, crops.size),
        folder,
    )


if __name__ == "__main__":
    ranks.divided(main)
