"""The metrics tree and the curve tables of one table row (docs/evaluation.md)."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.files import finite
from uld.base import random
from uld.base.errors import ArtifactError
from uld.evaluate import ced, nme, pose
from uld.evaluate.cases import Case, Inputs, cases, present, unscored
from uld.evaluate.pck import match, pck, raw_accuracy
from uld.evaluate.pose import RANGES, yaw_bins
from uld.evaluate.protocols import EvaluateParams, choose, label
from uld.evaluate.regressors import Regressor
from uld.evaluate.stability import detection_rate, distinct, stability

Errors = dict[str, NDArray[np.float32]]

SERIES = ["protocol", "set", "points", "rows", "direction"]
TABLES = {
    "ced": [*SERIES, "threshold", "fraction"],
    "cumulative": [*SERIES, "landmarks", "nme"],
    "landmarks": [*SERIES, "landmark", "nme", "present", "matched", "raw_accuracy"],
    "yaw": [*SERIES, "range", "images", "nme"],
}


@dataclass
class Scores:
    """`tree`: for metrics/<row>.json; `tables`: pieces of plots/<row>/<name>.csv, with columns TABLES[name]."""

    tree: dict[str, Any]
    tables: dict[str, list[pd.DataFrame]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def add(self, table: str, series: tuple[str, ...], lines: pd.DataFrame) -> None:
        """Append the lines of one series, named by the values of SERIES, to a table."""
        self.tables[table].append(lines.assign(**dict(zip(SERIES, series, strict=True))))

    def table(self, name: str) -> pd.DataFrame:
        """One table in long form; only its header if nothing was scored."""
        frames = self.tables[name] or [pd.DataFrame(columns=TABLES[name])]
        return pd.concat(frames, ignore_index=True)[TABLES[name]]


def score(
    inputs: Inputs, regressors: dict[str, Any], quality: dict[str, Any], params: EvaluateParams, seed: int
) -> Scores:
    """Every metric of one table row.

    Args:
        inputs: predictions and annotations.
        regressors: arrays of artifacts/regressors/<row>.h5.
        quality: label-free figures of the clusters (quality.json).
        params: block `evaluate`.
        seed: of the bootstrap.

    Raises:
        ArtifactError: the regressors were fitted with other protocols.
    """
    scores = Scores(finite(label_free(inputs, quality)))
    protocols = choose(params.protocols)
    for case in cases(inputs, protocols):
        protocol, set_name, kind = case.key
        branch = scores.tree.setdefault(protocol, {"rule": case.protocol.numbers()}).setdefault(set_name, {})
        branch["images"] = {"train": len(case.pool), "test": len(case.test)}
        branch[kind] = finite(_score_case(case, regressors, params, seed, scores, inputs.yaw[case.test]))
    if reasons := unscored(inputs, protocols):
        scores.tree["unscored"] = _nested(reasons)
    return scores


def _nested(reasons: dict[tuple[str, ...], str]) -> dict[str, Any]:
    """Reasons as a tree: protocol -> mark-up -> number of rows -> reason."""
    tree: dict[str, Any] = {}
    for (*above, last), why in reasons.items():
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = why
    return tree


def label_free(inputs: Inputs, quality: dict[str, Any]) -> dict[str, Any]:
    """The part of the tree that needs no annotation."""
    predictions = inputs.predictions
    test = np.flatnonzero(predictions.split == "test")
    landmarks = inputs.landmarks
    known = bool(landmarks and len(test))
    return {
        "landmarks": landmarks,
        "images": {"train": int((predictions.split == "train").sum()), "test": len(test), "missed": inputs.missed},
        "detection_rate": detection_rate(predictions.found.xy[test]).mean() if known else math.nan,
        "stability": stability(predictions, inputs.boxes) if known else math.nan,
        "distinct": distinct(predictions.found.dense_xy[test], inputs.boxes[test]) if known else math.nan,
        "clusters": quality,
        "poses": _poses(inputs, test),
    }


def _poses(inputs: Inputs, test: NDArray[np.int64]) -> dict[str, Any]:
    """How well pose clusters tell yaw, on the test images; nothing without pose clusters or yaw."""
    label, yaw = inputs.predictions.found.pose, inputs.yaw[test]
    if label is None or not np.isfinite(yaw).any():
        return {}
    return pose.scores(label[test], yaw)


def by_yaw(errors: Errors, yaw: NDArray[np.floating]) -> dict[str, Any]:
    """Errors of the test images (R, N, points) within each range of their yaw (N,) (D-ULD++, figure 3b)."""
    if not np.isfinite(yaw).any():
        return {}
    own = yaw_bins(yaw)
    out: dict[str, Any] = {}
    for number, name in enumerate(RANGES):
        mine = own == number
        if mine.any():
            ways = {f"{way}_nme": nme.nme(values[:, mine]) for way, values in errors.items()}
            out[name] = ways | {"images": int(mine.sum())}
    return out


def _score_case(
    case: Case,
    regressors: dict[str, Any],
    params: EvaluateParams,
    seed: int,
    scores: Scores,
    yaw: NDArray[np.floating],
) -> dict[str, Any]:
    """Metrics and curves of one case for each number of regressor rows; `yaw` is of the first number."""
    prefix = "/".join(case.key)
    names = [label(rows) for rows in case.protocol.served(len(case.pool))]
    for name in names:
        if f"{prefix}/{name}/forward" not in regressors:
            raise ArtifactError(f"no regressor for {prefix}/{name}: run `dvc repro regress` with the present params.")
    raw = _raw(case, params.raw)
    out: dict[str, Any] = {}
    for name in names:
        errors = _errors(case, regressors, f"{prefix}/{name}")
        out[name] = {key: value for way in errors for key, value in _summary(way, errors[way], params, seed).items()}
        spans = by_yaw(errors, yaw)
        out.setdefault("yaw", spans)
        for way, values in errors.items():
            series = (*case.key, name, way)
            _curves(case, series, values, raw, params, scores)
            lines = [(span, one["images"], one[f"{way}_nme"]) for span, one in spans.items()]
            scores.add("yaw", series, pd.DataFrame(lines, columns=["range", "images", "nme"]))
    if len(raw):
        out["raw"] = {"accuracy": raw["raw_accuracy"].mean(), "matched": len(raw)}
    return out


def _errors(case: Case, regressors: dict[str, Any], prefix: str) -> Errors:
    """Errors (R, N, points) by direction; no backward errors where nothing was discovered."""
    measure = {"forward": nme.forward_errors, "backward": nme.backward_errors}
    return {
        way: measure[way](case, Regressor(regressors[f"{prefix}/{way}"], regressors[f"{prefix}/{way}_fill"]))
        for way in measure
        if f"{prefix}/{way}" in regressors
    }


def _summary(way: str, errors: NDArray[np.float32], params: EvaluateParams, seed: int) -> dict[str, Any]:
    """Figures of one direction; PCK and the CED's two numbers are of the forward map only."""
    low, high = nme.interval(errors, params.bootstrap, random.rng(seed, "bootstrap"))
    out: dict[str, Any] = {f"{way}_nme": nme.nme(errors), f"{way}_low": low, f"{way}_high": high}
    images = _known(nme.image_nme(errors))
    if way == "forward" and len(images):
        out["pck"] = pck(errors, params.pck)
        out["auc"] = ced.auc(images, params.ced_limit)
        out["failure"] = ced.failure(images, params.ced_limit)
    return out


def _raw(case: Case, limit: float) -> pd.DataFrame:
    """Discovered landmarks matched on the training images, scored on the test images: a line a pair."""
    train, test = case.pool, case.test
    pairs = match(case.landmarks[train], case.annotated[train], case.normaliser[train])
    accuracy = raw_accuracy(case.landmarks[test], case.annotated[test], case.normaliser[test], pairs, limit)
    return pd.DataFrame({"landmark": pairs[:, 1], "matched": pairs[:, 0], "raw_accuracy": accuracy})


def _curves(
    case: Case,
    series: tuple[str, ...],
    errors: NDArray[np.float32],
    raw: pd.DataFrame,
    params: EvaluateParams,
    scores: Scores,
) -> None:
    """Lines of ced, cumulative and landmarks for the errors (R, N, points) of one series."""
    forward = series[-1] == "forward"
    thresholds, fraction = ced.ced(_known(nme.image_nme(errors)), params.ced_limit)
    scores.add("ced", series, pd.DataFrame({"threshold": thresholds, "fraction": fraction}))
    each = nme.landmark_nme(errors)
    curve = ced.cumulative(each)
    scores.add("cumulative", series, pd.DataFrame({"landmarks": np.arange(1, len(curve) + 1), "nme": curve}))
    lines = pd.DataFrame({"landmark": np.arange(len(each)), "nme": each})
    lines["present"] = present((case.annotated if forward else case.landmarks)[case.test]).mean(axis=0)
    matched = raw if forward else raw[:0]
    lines = lines.merge(matched, on="landmark", how="left").astype({"matched": "Int64"})
    scores.add("landmarks", series, lines)


def _known(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return values[~np.isnan(values)]
