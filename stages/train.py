"""One round of self-training: the model that its start becomes when it learns the round's pseudo-labels."""

import sys
from pathlib import Path

from uld import detector, methods, models
from uld.artifacts.files import sha256, write_table
from uld.artifacts.labels import read_labels, write_labels
from uld.base import params, random, ranks, runtime
from uld.base.scratch import scratch_folder
from uld.methods.base import Training


def main() -> None:
    key = sys.argv[1]
    chosen = params.read(detector.RoundParams, f"rounds.{key}")
    kind = methods.load(chosen.step)
    block = params.read(kind.Params, f"steps.{chosen.step}")
    seed = params.read(int, "seed")
    labels, out = Path(f"artifacts/labels/{key}/labels.h5"), Path(f"artifacts/rounds/{key}")
    head, bank, backbone = detector.trainable(chosen.features, chosen.start)
    inputs = [labels, Path(f"artifacts/rounds/{chosen.start}/head.safetensors")]
    made_of = {"inputs": [sha256(path) for path in inputs], "features": bank.spec}
    state = scratch_folder(f"train-{key}", params=block, seed=seed, **made_of)
    training = Training(
        read_labels(labels),
        bank,
        lambda step: random.rng(seed, f"train-{key}", step),
        state / "state.pt",
        f"round {key}",
    )
    head, history = kind(block).train(head, training)
    if runtime.process():
        return  # all have the same model
    models.save(head, out, backbone)
    write_table(out / "training.csv", history)
    write_labels(out / "labels.h5", training.labels)


if __name__ == "__main__":
    ranks.divided(main)
