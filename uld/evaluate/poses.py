"""Pose clusters of the rounds against yaw, on the training images that they were made of (D-ULD++, figure 7)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uld.artifacts.annotations import align, read_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import require
from uld.artifacts.index import read_index
from uld.artifacts.labels import POSE, read_labels
from uld.evaluate import pose, yaw

COLUMNS = ["method", "number", "round", "range", "accuracy"]
OVERALL = "overall"


@dataclass(frozen=True)
class Poses:
    """How far the pose clusters of rounds are poses.

    figures: round -> those of `pose.scores`, of each round whose labels have pose clusters. lines: its accuracy, a line
    a round and range of yaw that some cluster stands for, with `COLUMNS`: `number` counts the rounds of a method from
    1, range `overall` is all of them.
    """

    figures: dict[str, dict[str, Any]]
    lines: pd.DataFrame


def of_rounds(rounds: dict[str, str], folder: Path = Path("artifacts")) -> Poses:
    """Pose clusters of rounds against yaw; nothing where yaw is not known.

    Args:
        rounds: name of each round -> its method, in order.

    Raises:
        ArtifactError: a round has no labels.
    """
    images = read_boxes(folder / "roi" / "boxes.csv")["image"].to_numpy(dtype=object)
    index = read_index(folder / "data" / "index.csv").set_index("image").reindex(images)
    known = yaw.of_images(index, align(read_annotations(folder / "data" / "annotations.h5"), images))
    tree: dict[str, Any] = {}
    lines: list[tuple[str, int, str, str, float]] = []
    numbers: dict[str, int] = {}
    for name, method in rounds.items():
        labels = read_labels(require(folder / "rounds" / name / "labels.h5", f"train@{name}"))
        number = numbers[method] = numbers.get(method, 0) + 1
        own = labels.own_of(POSE, np.arange(len(images)), flipped=False)  # of the images as they are, not mirrored
        if not np.isfinite(known[own >= 0]).any():
            continue
        tree[name] = pose.scores(own[own >= 0], known[own >= 0])
        shares = {OVERALL: tree[name]["accuracy"], **tree[name]["ranges"]}
        lines += [(method, number, name, span, share) for span, share in shares.items() if np.isfinite(share)]
    return Poses(tree, pd.DataFrame(lines, columns=COLUMNS))
