"""Make one start, a model that rounds and table rows begin at, and measure its descriptors."""

import sys
from dataclasses import asdict
from pathlib import Path

from uld import starts
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import write_json, write_table
from uld.artifacts.models import Origin, save_model
from uld.base import params, random, ranks, runtime
from uld.base.scratch import scratch_folder
from uld.images.crops import Crops
from uld.sources import checks
from uld.sources.opened import open_views
from uld.sources.source import Source
from uld.starts.base import Site


def main() -> None:
    key = sys.argv[1]
    kind = starts.load(params.read(str, f"starts.{key}.model"))
    block = params.read(kind.Params, f"starts.{key}")
    seed, start = params.read(int, "seed"), kind(block)
    boxes, crops = read_boxes(Path("artifacts/roi/boxes.csv")), Crops(Path("artifacts/roi/crops.zarr"))
    origin = Origin(block.reads, "", start.views, 0)
    views, made_of = open_views(origin, start.grid, boxes, training=True)
    identity = {"params": asdict(block), "seed": seed, "made_of": made_of, "rows": views.rows.tolist()}
    state = scratch_folder(f"bootstrap-{key}", **identity) / "state.pt"
    site = Site(views, crops, seed, state, key)
    made = start.make(site)
    if runtime.process():
        return  # all have the same model
    out, steps = Path(f"artifacts/rounds/{key}"), 0
    if made.history is not None:
        steps = len(made.history)
        write_table(out / "training.csv", made.history)
    model = made.model.to(runtime.device())
    save_model(model, out, Origin(block.reads, made_of, start.views, steps), site.moments)
    tried = checks.sample(views.rows)
    figures = checks.measure(Source(model, views), tried, random.rng(seed, "gates"))
    baseline = checks.measure(checks.colour(crops, views), tried, random.rng(seed, "gates"))
    figures |= {f"colour_{name}": value for name, value in baseline.items()}
    if figures.get("self_match", 1) <= figures.get("colour_self_match", 0):
        print(f"warning: start {key} matches points no better than plain colour: train longer or use Stable Diffusion.")
    write_json(Path(f"metrics/starts/{key}.json"), figures)


if __name__ == "__main__":
    ranks.divided(main)
