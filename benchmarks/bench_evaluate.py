"""Regression and scores from cached predictions against a loop over images, repeats and resamples.

The loop gives the errors and their intervals only; ours also gives PCK, CED, matching and the curves, so the ratio is
on the low side.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from timing import measure, report, run, same

from uld.artifacts.annotations import AnnotationSet
from uld.artifacts.found import Found
from uld.artifacts.predictions import Predictions, Warped
from uld.base import random
from uld.evaluate.cases import Case, Inputs, cases
from uld.evaluate.protocols import EvaluateParams, choose
from uld.evaluate.regressors import draw, regress
from uld.evaluate.scores import score
from uld.geometry.views import EvaluationWarps

SEED = 0
Array = NDArray[np.float64]


def synthetic(images: int, landmarks: int, points: int) -> Inputs:
    """Noisy linear landmarks of random shapes, all detected; three in four images are for training."""
    rng = random.rng(SEED, "bench-evaluate")
    hidden = rng.normal(size=(images, 8))
    shape = 128 + 20 * (hidden @ rng.normal(size=(8, 2 * points))).reshape(images, points, 2)
    found = 128 + 20 * (hidden @ rng.normal(size=(8, 2 * landmarks))).reshape(images, landmarks, 2)
    xy = (found + rng.normal(size=found.shape)).astype(np.float32)
    split = np.where(np.arange(images) % 4 == 0, "test", "train").astype(object)
    names = np.array([f"{n:06d}.png" for n in range(images)], dtype=object)
    certain = np.ones((images, landmarks), np.float32)
    unwarped = Warped(np.empty(0, np.int64), np.empty((0, 0, landmarks, 2), np.float32))
    predictions = Predictions(names, split, Found(xy, certain, xy, certain), unwarped)
    boxes = np.tile([0.0, 0.0, 256.0, 256.0], (images, 1))
    sets = {"p": AnnotationSet(shape.astype(np.float32), (0,), (1,))}
    index = pd.DataFrame({"width": 256, "height": 256, "yaw": np.nan}, index=names)
    return Inputs(predictions, boxes, index, sets, 0)


def ours(inputs: Inputs, params: EvaluateParams) -> dict[str, Any]:
    """The metrics tree, by the code of the two stages."""
    maps: dict[str, Any] = {}
    for case in cases(inputs, choose(params.protocols)):
        maps |= regress(case, SEED)
    return score(inputs, maps, {}, params, SEED).tree


def naive(inputs: Inputs, params: EvaluateParams) -> dict[str, list[float]]:
    """{kind/rows/direction: [NME, low, high]}, percent."""
    out = {}
    for case in cases(inputs, choose(params.protocols)):
        for label, rows in draw(case, SEED).items():
            for way in ("forward", "backward"):
                errors = np.stack([_errors(case, one, way) for one in rows])
                figures = [float(100 * errors.mean(0).mean(0).mean()), *_interval(errors.mean(0), params.bootstrap)]
                out[f"{case.key[2]}/{label}/{way}"] = figures
    return out


def _errors(case: Case, rows: NDArray[np.int64], way: str) -> Array:
    """Errors (test images, points) of one repeat, image by image."""
    pair = (case.landmarks, case.annotated) if way == "forward" else (case.annotated, case.landmarks)
    ridge = case.protocol.ridge if way == "forward" else case.protocol.ridge_backward
    x, y = (points.reshape(len(points), -1) for points in pair)
    mean_x, mean_y = x[rows].mean(0), y[rows].mean(0)
    gram, cross = np.zeros((x.shape[1], x.shape[1])), np.zeros((x.shape[1], y.shape[1]))
    for row in rows:
        gram += np.outer(x[row] - mean_x, x[row] - mean_x)
        cross += np.outer(x[row] - mean_x, y[row] - mean_y)
    linear = np.linalg.solve(gram + ridge * gram.max() * np.eye(len(gram)), cross)
    out = []
    for row in case.test:
        miss = (x[row] - mean_x) @ linear + mean_y - y[row]
        out.append(np.linalg.norm(miss.reshape(-1, 2), axis=1) / case.normaliser[row])
    return np.array(out)


def _interval(errors: Array, draws: int) -> list[float]:
    rng = random.rng(SEED, "bootstrap")
    means = [100 * errors[rng.integers(len(errors), size=len(errors))].mean() for _ in range(draws)]
    return [float(end) for end in np.quantile(means, [0.025, 0.975])]


def main(small: bool) -> None:
    images, repeats = (200, 1) if small else (20_000, 3)
    params = EvaluateParams(
        ("canonical",), (0.05, 0.1, 0.2), 0.2, 0.2, 10 if small else 100, EvaluationWarps(0, 0, 0, 0)
    )
    inputs = synthetic(images, 10, 68)
    seconds, found = measure({"uld": lambda: ours(inputs, params), "loops": lambda: naive(inputs, params)}, repeats)
    tree = found["uld"]["canonical"]["p"]
    for key, figures in found["loops"].items():
        kind, label, way = key.split("/")
        mine = [tree[kind][label][f"{way}_{end}"] for end in ("nme", "low", "high")]
        same(key, mine, figures, rtol=1e-4)
    report(f"evaluate, {images} images, K=10, P=68, {params.bootstrap} resamples", seconds, images, "images", "loops")


if __name__ == "__main__":
    run(main)
