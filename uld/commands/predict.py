"""Landmarks of photographs on disk: a packed detector in, a CSV and pictures out (`uld predict`)."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from uld.artifacts.files import atomic
from uld.base import progress, runtime
from uld.base.errors import ArtifactError, DataError
from uld.detector import Detected, Detector
from uld.images import Pixels
from uld.images.decode import SUFFIXES, ahead, decode
from uld.images.walk import check_name, walk
from uld.report import figures

PIXELS = 2**28  # bytes of decoded photographs in a batch, at most (but for one that is larger by itself)
MARKER = 0.02  # radius of a marker, share of the object box's side
COLUMNS = ["image", "landmark", "x", "y", "score", "found", "x1", "y1", "x2", "y2", "reason"]

Batch = list[tuple[Path, Pixels | DataError]]


class Tally:
    """Counts for the summary: images in all, unreadable and without an object; (K,) detections and scores."""

    def __init__(self, count: int) -> None:
        self.images = self.unreadable = self.boxless = 0
        self.detected, self.placed = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.score = np.zeros(count)

    def add(self, found: Detected, unreadable: int) -> None:
        """Count a batch, of which `unreadable` images have no landmarks because they could not be read."""
        self.images += len(found.boxes)
        self.unreadable += unreadable
        self.boxless += int(np.isnan(found.boxes).any(1).sum()) - unreadable
        self.detected += np.isfinite(found.landmarks.xy).all(2).sum(0)
        self.placed += np.isfinite(found.landmarks.dense_score).sum(0)
        self.score += np.nan_to_num(found.landmarks.dense_score).sum(0)

    def table(self) -> Table:
        """A line a landmark."""
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("landmark", "detected in", "mean score"):
            table.add_column(name, justify="right")
        for k, (detected, placed, score) in enumerate(zip(self.detected, self.placed, self.score, strict=True)):
            table.add_row(str(k), f"{detected} of {placed}", f"{score / placed:.3f}" if placed else "-")
        return table


def predict(model: Path, inputs: list[Path], out: Path, overlay: Path | None, detected_only: bool) -> None:
    """Find the landmarks of all photographs; memory does not grow with their number.

    Args:
        model: artifacts/detectors/<row>/.
        inputs: files, and folders that are searched for images.
        out: the CSV, one line an image and landmark, with COLUMNS: x, y in pixels of the upright photograph, the centre
            of the first pixel at 0; `found` is `detected`, `dense` (best match of a landmark that was not detected) or
            empty, and then `reason` says why; x1 ... y2 the edges of the object box.
        overlay: folder for PNGs with the landmarks drawn, in the folders of the inputs; None: none are made.
        detected_only: leave out what is only `dense`.

    Raises:
        DataError: at the end, if an image could not be read; the others are in the CSV.
        ArtifactError: `model` is no detector, or has no landmarks.
    """
    detector = Detector.load(model)
    if not detector.count:
        raise ArtifactError(f"{model} has no landmarks (K = 0): choose the detector of another row.")
    if out.is_dir():
        raise DataError(f"{out} is a folder: give --out the name of a CSV file.")
    paths = collect(inputs)
    root = _root(paths)
    tally = Tally(detector.count)
    console = Console(stderr=True)
    shown = progress.bar("photographs", len(paths), console=console)
    with atomic(out) as part, part.open("w", newline="") as file, shown as advance:
        file.write(",".join(COLUMNS) + "\n")
        for batch in _batches(paths):
            found, reasons = _detect(detector, batch)
            lines([path.as_posix() for path, _ in batch], found, reasons, detected_only).to_csv(
                file, header=False, index=False, float_format="%.6g", lineterminator="\n"
            )
            for _, image in batch:
                if isinstance(image, DataError):
                    console.print(f"unreadable: {image}", markup=False, highlight=False, soft_wrap=True)
            if overlay is not None:
                _draw(overlay, root, batch, found, detected_only)
            tally.add(found, sum(map(bool, reasons)))
            advance(len(batch))
    Console(file=sys.stdout).print(tally.table())
    print(f"{tally.images} images: {tally.unreadable} unreadable, {tally.boxless} without an object")
    print(f"{out}: {tally.images * detector.count} lines" + (f"; pictures in {overlay}" if overlay else ""))
    if tally.unreadable:
        raise DataError(f"{tally.unreadable} of {tally.images} images could not be read; the others are done.")


def collect(inputs: list[Path]) -> list[Path]:
    """Files as given, folders as the images below them; each file once, hidden ones left out.

    Raises:
        DataError: a folder without images, or as `uld.images.walk.walk`.
    """
    found: dict[str, Path] = {}
    for given in inputs:
        inside = _images(given) if os.path.isdir(given) else [given]
        if not inside:
            raise DataError(f"{given} holds no image: put {', '.join(sorted(SUFFIXES))} files there.")
        for path in inside:
            check_name(str(path))
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _images(folder: Path) -> list[Path]:
    names, _ = walk(folder)
    return sorted(folder / name for name in names)


def _batches(paths: list[Path]) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for path, image in zip(paths, ahead(_read, paths, min(runtime.threads(), 4)), strict=True):
        batch.append((path, image))
        size += 0 if isinstance(image, DataError) else image.nbytes
        if len(batch) == runtime.batch_size() or size >= PIXELS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read(path: Path) -> Pixels | DataError:
    try:
        return decode(path)
    except DataError as error:
        return error


def _detect(detector: Detector, batch: Batch) -> tuple[Detected, list[str]]:
    """Landmarks of a batch, NaN for the unreadable, and for each image why it could not be read or nothing."""
    good = [n for n, (_, image) in enumerate(batch) if not isinstance(image, DataError)]
    photographs = [image for _, image in batch if not isinstance(image, DataError)]
    some = detector.detect(photographs, [str(batch[n][0]) for n in good])
    boxes = np.full((len(batch), 4), np.nan)
    boxes[good] = some.boxes
    reasons = [str(image).removeprefix(f"{path}: ") if isinstance(image, DataError) else "" for path, image in batch]
    return Detected(some.landmarks.put(np.array(good, dtype=np.int64), len(batch)), boxes), reasons


def lines(names: list[str], found: Detected, reasons: list[str], detected_only: bool) -> pd.DataFrame:
    """The lines of the CSV for B images `names`: COLUMNS, B x K lines, image by image.

    `reasons` (B,) say why an image was not read; "" if it was.
    """
    marks = found.landmarks
    images, count = marks.score.shape
    xy, score = (marks.xy, marks.score) if detected_only else (marks.filled_xy, marks.filled_score)
    seen, placed = (np.isfinite(points).all(2) for points in (marks.xy, xy))
    boxless = np.isnan(found.boxes).any(1)
    why = np.where(boxless, "no object box", "not detected").astype(object)
    why = np.where([bool(reason) for reason in reasons], np.array(reasons, dtype=object), why)
    return pd.DataFrame(
        {
            "image": np.repeat(np.array(names, dtype=object), count),
            "landmark": np.tile(np.arange(count), images),
            "x": xy[..., 0].ravel(),
            "y": xy[..., 1].ravel(),
            "score": np.where(placed, score, np.nan).ravel(),
            "found": np.where(placed, np.where(seen, "detected", "dense"), "").ravel(),
            **{name: np.repeat(found.boxes[:, n], count) for n, name in enumerate(("x1", "y1", "x2", "y2"))},
            "reason": np.where(placed, "", why[:, None]).ravel(),
        },
        columns=COLUMNS,
    )


def _root(paths: list[Path]) -> Path:
    """The deepest folder that all photographs are below: pictures of two folders never share a name."""
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))


def _draw(folder: Path, root: Path, batch: Batch, found: Detected, detected_only: bool) -> None:
    sides: NDArray[np.float64] = np.sqrt(np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1))
    for n, (path, image) in enumerate(batch):
        if isinstance(image, DataError):
            continue
        radius = max(2.0, MARKER * float(np.nan_to_num(sides[n])))
        marks = found.landmarks
        drawn = figures.overlay(image, (marks.xy if detected_only else marks.filled_xy)[n], radius)
        target = folder / Path(os.path.abspath(path)).relative_to(root)
        with atomic(target.with_name(f"{target.name}.png")) as part:
            part.write_bytes(figures.png(drawn))
