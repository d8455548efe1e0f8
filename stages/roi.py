"""Stage `roi`: one object box an image, and square crops around the boxes."""

from pathlib import Path

from uld import datasets, roi
from uld.artifacts.files import write_table
from uld.artifacts.index import read_index
from uld.base import params, stop
from uld.images import cut

DATA = Path("artifacts/data")
OUT = Path("artifacts/roi")


def main() -> None:
    """Read `roi`, the named blocks of `roi_providers`, `dataset`, `source`; write boxes, missing.csv and crops."""
    chosen = params.read(roi.RoiParams, "roi")
    source = datasets.source_folder(params.read(str, "source"))
    root = datasets.root(params.read(str, "dataset"), source)
    context = roi.Context(source, DATA / "annotations.h5")
    providers = []
    for name in chosen.providers:
        kind = roi.kind(name)
        providers.append(kind(params.read(kind.Params, f"roi_providers.{name}"), context))

    index = read_index(DATA / "index.csv")
    boxes, missing = roi.locate(root, index, providers, chosen.max_missing)
    write_table(OUT / "boxes.csv", boxes)
    write_table(OUT / "missing.csv", missing)
    cut.write(OUT / "crops.zarr", root, boxes, chosen.margin, chosen.crop, chosen.border)

    print(f"{len(boxes)} boxes: {boxes['provider'].value_counts().to_dict()}; {len(missing)} images without one")


if __name__ == "__main__":
    stop.run(main)
