"""One round of self-training: the model that its start becomes when it learns the round's pseudo-labels."""

import sys
from dataclasses import asdict
from pathlib import Path

from uld import methods
from uld.artifacts.files import sha256, write_table
from uld.artifacts.labels import read_labels, write_labels
from uld.artifacts.models import WEIGHTS, read_moments, save_model
from uld.base import params, random, ranks, runtime
from uld.base.scratch import scratch_folder
from uld.methods.base import Training
from uld.methods.lines import RoundParams
from uld.sources.opened import open_model, trained_more


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(RoundParams, f"rounds.{key}")
    kind = methods.load(chosen.method)
    block = params.read(kind.Train, f"methods.{chosen.method}.train")
    seed = params.read(int, "seed")
    labels, out = Path(f"artifacts/labels/{key}/labels.h5"), Path(f"artifacts/rounds/{key}")
    opened = open_model(chosen.start, training=True)
    inputs = [sha256(path) for path in (labels, Path(f"artifacts/rounds/{chosen.start}") / WEIGHTS)]
    seen = {"made_of": opened.origin.made_of, "views": opened.origin.views}
    identity = {"params": asdict(block), "seed": seed, "inputs": inputs} | seen
    state = scratch_folder(f"train-{key}", **identity) / "state.pt"
    training = Training(
        read_labels(labels),
        opened.views,
        lambda step: random.rng(seed, f"train-{key}", step),
        state,
        f"round {key}",
        read_moments(Path(f"artifacts/rounds/{chosen.start}")),
    )
    model, history = kind.train(opened.model, training, block)
    if runtime.process():
        return  # all have the same model
    save_model(model, out, trained_more(opened.origin, len(history)), training.moments)
    write_table(out / "training.csv", history)
    write_labels(out / "labels.h5", training.labels)


if __name__ == "__main__":
    ranks.divided(main)
