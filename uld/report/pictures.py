"""The pictures of a run by name, and which images they show."""

import struct
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.images import Pixels
from uld.report import charts, figures, source
from uld.report.source import Run

SIDE, LARGE = 160, 240  # pixels of a face in a mosaic, and of one that stands alone
COLUMNS = 6
PATCH, WINDOW = 72, 0.4  # pixels of an exemplar, and the share of the crop that it shows

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Picture:
    """A PNG, the text that stands for it, and its caption."""

    png: bytes
    alt: str
    caption: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the file's header."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height

    @property
    def url(self) -> str:
        """The whole file as a data URL."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


def spread(rows: Rows, count: int) -> Rows:
    """`count` of the rows (fewer if there are fewer), evenly over their order."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)]


def faces(run: Run, rows: Rows, xy: NDArray[np.float32], side: int = SIDE) -> list[Pixels]:
    """Crops of `rows` (B,) as (side, side, 3) with their landmarks xy (B, K, 2) of the image; markers shrink with K."""
    radius = side * float(np.clip(0.09 / max(xy.shape[1], 1) ** 0.5, 0.02, 0.03))
    found = []
    for one, points in zip(rows, xy, strict=True):
        crop = figures.fade(run.crops.images(one[None])[0], run.crops.inside(one[None])[0])
        found.append(figures.tile(crop, run.crops.affine[one], points, side, radius))
    return found


def headline(run: Run, count: int) -> Picture:
    """Landmarks of the main row over test images."""
    rows = spread(np.flatnonzero(run.inputs.predictions.split == "test"), count)
    found = run.inputs.predictions.found.xy
    image = figures.mosaic(faces(run, rows, found[rows]), COLUMNS)
    return Picture(figures.png(image), f"{len(rows)} test images with the {found.shape[1]} landmarks of {run.main}")


def worst(run: Run, count: int) -> dict[str, Picture]:
    """The test images with the largest forward NME; without annotations those with the lowest mean score."""
    predictions = run.inputs.predictions
    rows, badness = run.image_errors()
    captions = [f"{value:.1f} %" for value in badness]
    if not len(rows) and predictions.found.score.shape[1]:
        rows = np.flatnonzero(predictions.split == "test")
        score = predictions.found.dense_score[rows].mean(axis=1, dtype=np.float64)
        badness, captions = -score, [f"score {value:.3f}" for value in score]
    found = {}
    for number, i in enumerate(np.argsort(-badness, kind="stable")[:count].tolist()):
        name, at = predictions.images[rows[i]], rows[[i]]
        image = figures.png(faces(run, at, predictions.found.xy[at], LARGE)[0])
        found[f"worst-{number:02d}.png"] = Picture(image, f"landmarks on {name}", f"{captions[i]} · {name}")
    return found


def exemplars(run: Run) -> dict[int, Picture]:
    """For each landmark, patches of training images around the points nearest to its centroid."""
    found = {}
    for k, (rows, points) in enumerate(zip(run.landmarks.exemplar_image, run.landmarks.exemplar_xy, strict=True)):
        shown = rows >= 0
        patches = [
            figures.patch(crop, run.crops.affine[row], xy, WINDOW, PATCH)
            for row, xy, crop in zip(rows[shown], points[shown], run.crops.images(rows[shown]), strict=True)
        ]
        if patches:
            strip = figures.png(figures.mosaic(patches, len(patches)))
            found[k] = Picture(strip, f"training patches of landmark {k}")
    return found


def side_by_side(run: Run) -> dict[str, Picture]:
    """The same test images under every table row that has landmarks; from left to right in yaw where it is known."""
    rows = np.flatnonzero(run.inputs.predictions.split == "test")
    yaw = run.inputs.yaw[rows]
    if (known := np.isfinite(yaw)).any():
        rows = rows[known][np.argsort(yaw[known], kind="stable")]
    rows = spread(rows, COLUMNS)
    found = {}
    for row in run.metrics:
        xy = source.predictions(row).found.xy[rows]
        if xy.shape[1]:
            image = figures.mosaic(faces(run, rows, xy), COLUMNS)
            found[f"row-{row}.png"] = Picture(figures.png(image), f"landmarks of row {row} on {len(rows)} images", row)
    return found


def chart_pictures(run: Run) -> dict[str, Picture]:
    """The charts that the run has numbers for."""
    found: dict[str, Picture] = {}
    if curves := _both_ways(run, "ced"):
        found["ced.png"] = Picture(charts.ced(curves, run.main), f"cumulative error curves, {' and '.join(curves)}")
    if len(run.landmarks.sample) > 2 and run.landmarks.sample.shape[1] > 1:
        found["clusters.png"] = Picture(charts.cluster_map(run.landmarks), "descriptors on their two principal axes")
    if run.rounds:
        found["rounds.png"] = Picture(charts.rounds(run.rounds), "health of the labels over the rounds")
    if run.poses["range"].nunique() > 2:  # all, and more than one range
        found["poses.png"] = Picture(charts.pose_accuracy(run.poses), "pose clusters against yaw over the rounds")
    ways = _both_ways(run, "yaw")
    if any(len(lines) > 1 for rows in ways.values() for lines in rows.values()):
        found["yaw.png"] = Picture(charts.by_yaw(ways, run.main), "errors by range of yaw")
    for name, direction, draw in (
        ("landmark-errors.png", "backward", charts.landmark_errors),
        ("point-errors.png", "forward", charts.point_errors),
    ):
        lines = run.series("landmarks", direction).get(run.main)
        if lines is not None and lines["nme"].notna().any():
            found[name] = Picture(draw(lines["nme"].to_numpy(np.float64)), f"{direction} error of each point")
            if direction == "forward" and lines["matched"].notna().any():
                found["raw-accuracy.png"] = Picture(
                    charts.raw_accuracy(lines), "annotated points matched by a landmark"
                )
    return found


def _both_ways(run: Run, table: str) -> dict[str, dict[str, pd.DataFrame]]:
    """Direction -> row -> lines of a curve table; a direction without any is left out."""
    return {way: rows for way in ("forward", "backward") if (rows := run.series(table, way))}
