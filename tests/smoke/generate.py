"""A small data set of drawn faces with exact landmarks, in the layout that data set `folder` reads."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

POINTS = ("left eye", "right eye", "mouth left", "mouth right", "forehead", "chin")
# the same in units of half the face's height, its centre at 0, y down
FACE = np.array([[-0.3, -0.25], [0.3, -0.25], [-0.25, 0.45], [0.25, 0.45], [0, -1], [0, 1]])
FINE = 4  # drawn so many times larger and averaged down


def photographs(folder: Path, people: int = 12, each: int = 2, seed: int = 0) -> None:
    """Write `people` x `each` faces <person>/<n>.png, landmarks.csv, and split.csv that tests on every third person."""
    rng = np.random.default_rng(seed)
    lines, splits = [], []
    for person in range(people):
        skin, ground = rng.uniform(140, 250, 3), rng.uniform(0, 110, 3)
        for n in range(each):
            name = f"p{person:02d}/{n}.png"
            side = int(rng.integers(64, 81))
            pixels, xy = face(side, skin, ground, rng)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), pixels[:, :, ::-1])
            lines.append([name, *xy.ravel().tolist()])
            splits.append([name, "test" if person % 3 == 2 else "train", f"p{person:02d}"])
    columns = [f"{axis}{i}" for i in range(len(POINTS)) for axis in "xy"]
    pd.DataFrame(lines, columns=["image", *columns]).to_csv(folder / "landmarks.csv", index=False, float_format="%.4f")
    pd.DataFrame(splits, columns=["image", "split", "group"]).to_csv(folder / "split.csv", index=False)


def face(
    side: int, skin: NDArray[np.float64], ground: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """One face (side, side, 3) RGB at a random place, size and angle, and its landmarks (6, 2) x, y in pixels."""
    size = rng.uniform(0.3, 0.38) * side
    angle = np.deg2rad(rng.uniform(-20, 20))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = side / 2 + rng.uniform(-0.08, 0.08, 2) * side

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points * size @ turn.T + centre

    def fill(points: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
        fine = FINE * place(points) + (FINE - 1) / 2
        cv2.fillPoly(canvas, [np.rint(fine).astype(np.int32)], colour.tolist())

    canvas = np.empty((FINE * side, FINE * side, 3))
    canvas[:] = ground
    fill(ellipse(0, 0, 0.75, 1), skin)
    for x, y in FACE[:2]:
        fill(ellipse(x, y, 0.16, 0.1), np.full(3, 255.0))
        fill(ellipse(x, y, 0.08, 0.09), np.full(3, 10.0))
    fill(ellipse(0, FACE[2, 1], 0.25, 0.07), np.array([170.0, 30, 40]))
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    noisy = small + rng.normal(0, 3, small.shape)
    return noisy.clip(0, 255).round().astype(np.uint8), place(FACE)


def ellipse(x: float, y: float, a: float, b: float) -> NDArray[np.float64]:
    """Outline (64, 2) with the half-axes a and b."""
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return np.stack([x + a * np.cos(t), y + b * np.sin(t)], axis=1)
