"""Let the aggregator of one start rest: store its maps of every image and view, which rounds and rows then read."""

import sys
from pathlib import Path

from uld import models
from uld.base import params, ranks, runtime
from uld.base.errors import ULDError
from uld.diffusion import aggregated
from uld.diffusion.online import open_store


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(aggregated.AggregatedParams, f"aggregated.{key}")
    parent = open_store(Path(f"artifacts/features/{chosen.features}.zarr"))
    head = models.load(Path(f"artifacts/rounds/{key}"), parent.spec["backbone"]).to(runtime.device())
    if not isinstance(head, models.LearnedHead):
        raise ULDError(f"aggregated.{key}: this start has no aggregator: name starts with head: learned.")
    aggregated.fill(Path(f"artifacts/features/{key}.zarr"), parent, head, key)


if __name__ == "__main__":
    ranks.divided(main)
