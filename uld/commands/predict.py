"""Landmarks of photographs on disk: a packed detector in, a CSV and pictures out (`uld predict`)."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from uld import __version__
from uld.artifacts.found import joined
from uld.base import progress, runtime, shown, stop
from uld.base.errors import ArtifactError, DataError, ULDError
from uld.base.writing import write
from uld.commands import targets
from uld.commands.unfinished import rows_of
from uld.detector import Detected, Detector
from uld.images import Pixels
from uld.images.decode import SUFFIXES, ahead, decode
from uld.images.walk import walk
from uld.report import figures

PIXELS = 2**28  # bytes of decoded photographs in a batch, at most (but for one that is larger by itself)
MARKER = 0.02  # radius of a marker, share of the object box's side
COLUMNS = ["image", "landmark", "x", "y", "score", "found", "x1", "y1", "x2", "y2", "reason"]

Batch = list[tuple[Path, Pixels | DataError]]


class Failed(DataError):
    """A photograph was read, and detecting landmarks in it ended in an error."""


@dataclass
class Tally:
    """Counts for the summary, of images, of pictures that could not be made, and of each of K landmarks."""

    detected: list[int]
    placed: list[int]
    score: list[float]
    images: int = 0
    unreadable: int = 0
    failed: int = 0
    boxless: int = 0
    undrawn: int = 0

    @classmethod
    def of(cls, count: int) -> "Tally":
        """Of K landmarks and nothing yet."""
        return cls([0] * count, [0] * count, [0.0] * count)

    def add(self, found: Detected, batch: Batch) -> None:
        """Count a batch."""
        failed = sum(isinstance(image, Failed) for _, image in batch)
        unreadable = sum(isinstance(image, DataError) for _, image in batch) - failed
        self.images += len(batch)
        self.unreadable += unreadable
        self.failed += failed
        self.boxless += int(np.isnan(found.boxes).any(1).sum()) - unreadable - failed
        marks = found.landmarks
        self.detected = (self.detected + np.isfinite(marks.xy).all(2).sum(0)).tolist()
        self.placed = (self.placed + np.isfinite(marks.dense_score).sum(0)).tolist()
        self.score = (self.score + np.nan_to_num(marks.dense_score).sum(0)).tolist()

    def table(self) -> Table:
        """A line a landmark."""
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("landmark", "detected in", "mean score"):
            table.add_column(name, justify="right")
        for k, (detected, placed, score) in enumerate(zip(self.detected, self.placed, self.score, strict=True)):
            table.add_row(str(k), f"{detected} of {placed}", f"{score / placed:.3f}" if placed else "-")
        return table

    def complaints(self) -> list[str]:
        """What went wrong, a sentence each."""
        said = {
            "images could not be read; the others are done.": self.unreadable,
            "images ended in an error, which the column `reason` tells; the others are done.": self.failed,
            "pictures could not be drawn or written; all landmarks are in the CSV.": self.undrawn,
        }
        return [f"{count} of {self.images} {what}" for what, count in said.items() if count]


@dataclass(frozen=True)
class Wanted:
    """What is to be made of the photographs."""

    paths: list[Path]
    overlay: Path | None
    detected_only: bool

    @cached_property
    def root(self) -> Path:
        """The deepest folder that all photographs are below: pictures of two folders never share a name."""
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in self.paths]))

    def identity(self) -> dict[str, Any]:
        """What two runs have in common that make the same rows and pictures, beside the detector."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(f"{path.as_posix()!r} {os.path.abspath(path)!r} {_state(path)}\n".encode())
        drawn = None if self.overlay is None else os.path.abspath(self.overlay)
        return {"images": digest.hexdigest(), "overlay": drawn, "detected": self.detected_only}


def _state(path: Path) -> tuple[int, int] | None:
    """What shows that a file is the one of before: size and time of its last change."""
    try:
        known = path.stat()
    except (OSError, ValueError):
        return None
    return known.st_size, known.st_mtime_ns


def predict(
    model: Path,
    inputs: list[Path],
    out: Path,
    overlay: Path | None,
    detected_only: bool,
    open_outside: bool = False,
) -> None:
    """Find the landmarks of all photographs; memory does not grow with their number.

    A run that is stopped keeps the rows that it has beside `out`, and the same call goes on from there.

    Args:
        model: artifacts/detectors/<row>/.
        inputs: files, and folders that are searched for images.
        out: the CSV, one line an image and landmark, with COLUMNS: x, y in pixels of the upright photograph, the centre
            of the first pixel at 0; `found` is `detected`, `dense` (best match of a landmark that was not detected) or
            empty, and then `reason` says why; x1 ... y2 the edges of the object box.
        overlay: folder for PNGs with the landmarks drawn, in the folders of the inputs; None: none are made.
        detected_only: leave out what is only `dense`.
        open_outside: as in `Detector.load`.

    Raises:
        DataError: before any work, if `out` or `overlay` cannot be written; at the end, if an image could not be read
            or a picture not be made. What could is there.
        ArtifactError: `model` is no detector, or has no landmarks.
        Interrupted: SIGINT or SIGTERM came; the batch was finished and all is kept.
    """
    targets.refuse_out(out)
    if overlay is not None:
        targets.refuse_overlay(overlay, inputs)
    wanted = Wanted(collect(inputs), overlay, detected_only)
    targets.refuse_inputs(out, wanted.paths)
    detector = Detector.load(model, open_outside)
    if not detector.count:
        raise ArtifactError(f"{model} has no landmarks (K = 0): choose the detector of another row.")
    tally = _rows(detector, wanted, out)
    Console(file=sys.stdout).print(tally.table())
    print(f"{tally.images} images: {tally.unreadable} unreadable, {tally.boxless} without an object")
    said = f"{out}: {tally.images * detector.count} lines" + (f"; pictures in {overlay}" if overlay else "")
    print(shown.line(said))
    if wrong := tally.complaints():
        raise DataError("\n".join(wrong))


def _rows(detector: Detector, wanted: Wanted, out: Path) -> Tally:
    """Write the CSV and the pictures, from where an earlier run was stopped."""
    console, total = Console(stderr=True), len(wanted.paths)
    made_by = {"uld": __version__, "detector": detector.fingerprint}
    with stop.interruptible() as asked, rows_of(out, **made_by, **wanted.identity()) as rows:
        tally = Tally(**rows.more) if rows.more else Tally.of(detector.count)
        if rows.stale:
            _say(console, f"beginning anew: what was begun of {out} is of another detector, other images or options")
        if rows.count:
            _say(console, f"going on after {rows.count} of {total} images")
        else:
            rows.write(f"{','.join(COLUMNS)}\n".encode())
        with progress.bar("photographs", total, rows.count, console) as advance:
            for batch in _batches(wanted.paths[rows.count :]):
                rows.write(_finished(detector, wanted, batch, tally, console))
                rows.note(rows.count + len(batch), asdict(tally))
                advance(len(batch))
                if asked and rows.count < total:
                    raise stop.Interrupted(f"{rows.count} of {total} images are kept; the same command goes on.")
    return tally


def _finished(detector: Detector, wanted: Wanted, batch: Batch, tally: Tally, console: Console) -> bytes:
    """Lines of the CSV of a batch, whose pictures are drawn and which is counted."""
    batch, found = _detect(detector, batch)
    for path, image in batch:
        if isinstance(image, DataError):
            _say(console, f"{'failed' if isinstance(image, Failed) else 'unreadable'}: {_named(path, image)}")
    if wanted.overlay is not None:
        tally.undrawn += _draw(wanted.overlay, wanted, batch, found, console)
    tally.add(found, batch)
    names = [path.as_posix() for path, _ in batch]
    return as_csv(lines(names, found, [_reason(*one) for one in batch], wanted.detected_only))


def _say(console: Console, said: str) -> None:
    console.print(shown.line(said), markup=False, highlight=False, soft_wrap=True)


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
    except MemoryError:
        return DataError(f"{path}: there is no memory for it: shrink it.")
    except OSError as error:
        return DataError(f"{path}: {error.strerror}.")


def _detect(detector: Detector, batch: Batch) -> tuple[Batch, Detected]:
    """Landmarks of a batch, NaN for what could not be read or detected in, which holds its error then."""
    try:
        return batch, _together(detector, batch)
    except Exception as error:  # noqa: BLE001  # whatever one image does to a library, the others are wanted
        if len(batch) > 1:
            return _joined([_detect(detector, [one]) for one in batch])
        path, _ = batch[0]
        failed: Batch = [(path, Failed(f"{path}: {_told(error)}"))]
        return failed, _together(detector, failed)


def _together(detector: Detector, batch: Batch) -> Detected:
    good = [n for n, (_, image) in enumerate(batch) if not isinstance(image, DataError)]
    photographs = [image for _, image in batch if not isinstance(image, DataError)]
    some = detector.detect(photographs, [str(batch[n][0]) for n in good])
    boxes = np.full((len(batch), 4), np.nan)
    boxes[good] = some.boxes
    return Detected(some.landmarks.put(np.array(good, dtype=np.int64), len(batch)), boxes)


def _joined(parts: list[tuple[Batch, Detected]]) -> tuple[Batch, Detected]:
    found = [one for _, one in parts]
    marks, boxes = joined([one.landmarks for one in found]), np.concatenate([one.boxes for one in found])
    return [one for batch, _ in parts for one in batch], Detected(marks, boxes)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ULDError) else f"{type(error).__name__}: {error}"


def _reason(path: Path, image: Pixels | DataError) -> str:
    """Why a photograph was not read or has no landmarks; nothing if it has."""
    return str(image).removeprefix(f"{path}: ") if isinstance(image, DataError) else ""


def _named(path: Path, image: DataError) -> str:
    return f"{path}: {_reason(path, image)}"


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


class _Lines(list[str]):
    """What `csv` writes. It quotes names that hold a character of its line end: that is "\\r\\n", and "\\n" on disk."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def as_csv(table: pd.DataFrame) -> bytes:
    """The lines of a table, UTF-8, numbers with 6 digits; bytes of a name that are no UTF-8 are spelt out."""
    written = _Lines()
    table.to_csv(written, header=False, index=False, float_format="%.6g", lineterminator="\r\n")  # type: ignore[call-overload]
    return "".join(written).encode("utf-8", "backslashreplace")


def _draw(folder: Path, wanted: Wanted, batch: Batch, found: Detected, console: Console) -> int:
    """Draw the pictures of a batch; how many of them could not be made."""
    sides: NDArray[np.float64] = np.sqrt(np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1))
    marks = found.landmarks.xy if wanted.detected_only else found.landmarks.filled_xy
    undrawn = 0
    for n, (path, image) in enumerate(batch):
        if isinstance(image, DataError):
            continue
        try:
            drawn = figures.overlay(image, marks[n], max(2.0, MARKER * float(np.nan_to_num(sides[n]))))
            write(_target(folder, wanted.root, path), figures.png(drawn))
        except Exception as error:  # noqa: BLE001  # a picture is never worth the landmarks of the others
            undrawn += 1
            _say(console, f"warning: no picture of {path}: {_told(error)}")
    return undrawn


def _target(folder: Path, root: Path, path: Path) -> Path:
    """The picture of a photograph; a name that would be too long with its ending is cut."""
    target = folder / Path(os.path.abspath(path)).relative_to(root)
    name = f"{target.name}.png"
    if len(os.fsencode(name)) > targets.LONGEST:
        name = f"{target.name[:40]}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]}.png"
    return target.with_name(name)
