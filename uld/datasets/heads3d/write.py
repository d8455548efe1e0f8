"""The data set as a folder: photographs, one table of what is known of them, and one of object boxes."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from uld.base import random, runtime
from uld.base.errors import DataError
from uld.datasets.heads3d.photo import PHOTOS, photo

TABLE, BOXES, FOLDER = "faces.csv", "boxes.csv", "images"
TEST = 4  # every fourth person is held out
CHUNK = 20  # photographs that a process makes at a time, whole people
SHIFT, STRETCH = 0.03, 0.04  # by which a face detector's boxes scatter, shares of the box


def write(folder: Path, count: int, seed: int, size: int) -> None:
    """Make `count` photographs of size x size pixels, PHOTOS of each person, and boxes.csv and faces.csv at last.

    The same (seed, index) is the same photograph, however many there are and however many processes make them.

    Raises:
        DataError: the folder holds something else.
    """
    if folder.exists() and {path.name for path in folder.iterdir()} - {TABLE, BOXES, FOLDER}:
        raise DataError(f"{folder} holds other files: name a new or empty folder for the generated faces.")
    (folder / TABLE).unlink(missing_ok=True)  # an interrupted run must not look finished
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in (folder / FOLDER).glob("*.png"):
        path.unlink()
    parts = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    # spawned, because a fork of a process that has run torch can hang
    with ProcessPoolExecutor(runtime.threads(), mp_context=get_context("spawn"), initializer=_single) as pool:
        made = pool.map(partial(_part, folder, seed, size), parts)
        lines = [line for part in track(made, "faces", len(parts), console=Console(stderr=True)) for line in part]
    table = pd.DataFrame(lines)
    boxes = pd.DataFrame(table.pop("box").tolist(), columns=["x1", "y1", "x2", "y2"])
    boxes.insert(0, "image", table["image"])
    boxes.to_csv(folder / BOXES, index=False, lineterminator="\n")
    unfinished = folder / f"{TABLE}.part"
    table.to_csv(unfinished, index=False, lineterminator="\n")
    unfinished.replace(folder / TABLE)


def box(xy: NDArray[np.floating], rng: np.random.Generator) -> tuple[float, ...]:
    """x1, y1, x2, y2 about the points (68, 2) of a face, as far off as those of a detector are."""
    low, high = xy.min(0).astype(np.float64), xy.max(0).astype(np.float64)
    side = high - low
    centre = (low + high) / 2 + side * rng.normal(0, SHIFT, 2)
    half = side / 2 * np.exp(rng.normal(0, STRETCH))
    return tuple(round(float(edge), 3) for edge in (*(centre - half), *(centre + half)))


def _single() -> None:
    cv2.setNumThreads(1)


def _part(folder: Path, seed: int, size: int, numbers: range) -> list[dict[str, Any]]:
    lines = []
    for index in numbers:
        shot, person = photo(seed, index, size), index // PHOTOS
        name = f"{FOLDER}/{index:06d}.png"
        if not cv2.imwrite(str(folder / name), shot.image[:, :, ::-1]):
            raise OSError(f"{folder / name} cannot be written")
        line: dict[str, Any] = {"image": name, "split": "test" if person % TEST == TEST - 1 else "train"}
        line |= {"person": person, "yaw": shot.yaw, "pitch": shot.pitch, "roll": shot.roll}
        line |= {
            f"{axis}{i}": round(float(v), 3) for i, xy in enumerate(shot.xy) for axis, v in zip("xy", xy, strict=True)
        }
        line["box"] = box(shot.xy, random.rng(seed, "faces3d box", index))
        lines.append(line | {f"v{i}": int(seen) for i, seen in enumerate(shot.visible)})
    return lines
