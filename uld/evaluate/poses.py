"""Pose clusters of the rounds against yaw, on the training images that they were made of (D-ULD++, figure 7)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from uld.artifacts.annotations import align, read_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import read_table
from uld.artifacts.labels import poses_of, read_labels
from uld.evaluate import pose, yaw

COLUMNS = ["step", "number", "round", "range", "accuracy"]
OVERALL = "overall"


def of_rounds(rounds: dict[str, str], folder: Path = Path("artifacts")) -> tuple[dict[str, Any], pd.DataFrame]:
    """Figures of each round whose labels have pose clusters, and its accuracy by range of yaw.

    Args:
        rounds: name of each round -> its step, in order.

    Returns:
        round -> figures; and a line a round and range that some cluster stands for, with `COLUMNS`: `number` counts the
        rounds of a step from 1, range `overall` is all of them. Both are empty where yaw is not known.

    Raises:
        ArtifactError: a round has no labels.
    """
    images = read_boxes(folder / "roi" / "boxes.csv")["image"].to_numpy(dtype=object)
    index = read_table(folder / "data" / "index.csv", "data").set_index("image").reindex(images)
    known = yaw.of_images(index, align(read_annotations(folder / "data" / "annotations.h5"), images))
    tree: dict[str, Any] = {}
    lines: list[tuple[str, int, str, str, float]] = []
    numbers: dict[str, int] = {}
    for name, step in rounds.items():
        labels = read_labels(folder / "rounds" / name / "labels.h5")
        number = numbers[step] = numbers.get(step, 0) + 1
        own = poses_of(labels, np.arange(len(images)), 0)  # of the images as they are, not mirrored
        if not np.isfinite(known[own >= 0]).any():
            continue
        tree[name] = pose.scores(own[own >= 0], known[own >= 0])
        shares = {OVERALL: tree[name]["accuracy"], **tree[name]["ranges"]}
        lines += [(step, number, name, span, share) for span, share in shares.items() if np.isfinite(share)]
    return tree, pd.DataFrame(lines, columns=COLUMNS)
