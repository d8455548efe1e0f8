"""Tables of 100,000 images: boxes, predictions and the join with annotations, against one HDF5 group an image."""

import resource
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from timing import Ways, measure, report, run, same

from uld.artifacts.annotations import Annotations, AnnotationSet, align, read_annotations, write_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import write_table
from uld.artifacts.found import Found
from uld.artifacts.predictions import Predictions, Warped, read_predictions, write_predictions
from uld.base import random

LANDMARKS, WARPS, POINTS = 10, 4, 68
WARPED = "warped"  # of test images only


def tables(rows: int) -> tuple[pd.DataFrame, Predictions, Annotations]:
    """Random boxes.csv, predictions and annotations of `rows` images, the annotations in another order."""
    rng = random.rng(0, "bench-index")
    names = np.array([f"folder/{n:07d}.jpg" for n in range(rows)], dtype=object)
    split = np.where(rng.random(rows) < 0.2, "test", "train").astype(object)
    edges = {
        edge: rng.integers(0, 500, rows) + start
        for edge, start in zip(("x1", "y1", "x2", "y2"), (0, 0, 500, 500), strict=True)
    }
    boxes = pd.DataFrame({"image": names, "split": split, **edges, "score": 0.5, "provider": "full"})
    xy, score = rng.random((rows, LANDMARKS, 2), np.float32), rng.random((rows, LANDMARKS), np.float32)
    test = np.flatnonzero(split == "test")
    warped = Warped(test, rng.random((len(test), WARPS, LANDMARKS, 2), np.float32))
    predictions = Predictions(names, split, Found(xy, score, xy, score), warped)
    other = rng.permutation(rows)
    marks = {"p68": AnnotationSet(rng.random((rows, POINTS, 2), np.float32), (36,), (45,))}
    return boxes, predictions, Annotations(names[other], marks)


def flat(folder: Path, predictions: Predictions) -> Predictions:
    """Write and read predictions as the project keeps them."""
    write_predictions(folder / "flat.h5", predictions)
    return read_predictions(folder / "flat.h5")


def grouped(folder: Path, predictions: Predictions) -> Predictions:
    """Write and read them with one group an image."""
    with h5py.File(folder / "grouped.h5", "w") as file:
        for row, image in enumerate(predictions.images):
            group = file.create_group(image.replace("/", "|"))
            group.attrs["split"] = predictions.split[row]
            for name, value in predictions.found.given().items():
                group.create_dataset(name, data=value[row])
        for row, xy in zip(predictions.warped.rows, predictions.warped.xy, strict=True):
            file[predictions.images[row].replace("/", "|")].create_dataset(WARPED, data=xy)
    with h5py.File(folder / "grouped.h5", "r") as file:
        groups = list(file.values())
        names = np.array([group.name.removeprefix("/").replace("|", "/") for group in groups], dtype=object)
        split = np.array([group.attrs["split"] for group in groups], dtype=object)
        keys = [key for key in groups[0] if key != WARPED]
        found = Found(**{key: np.array([group[key][...] for group in groups]) for key in keys})
        rows = [row for row, group in enumerate(groups) if WARPED in group]
        warped = Warped(np.array(rows), np.array([groups[row][WARPED][...] for row in rows]))
    return Predictions(names, split, found, warped)


def check(one: Predictions, other: Predictions) -> None:
    """Stop unless both hold the same."""
    assert np.array_equal(one.images, other.images), "images differ"
    assert np.array_equal(one.split, other.split), "splits differ"
    for name, value in one.found.given().items():
        same(name, value, getattr(other.found, name))
    same("warped images", one.warped.rows, other.warped.rows)
    same("warped landmarks", one.warped.xy, other.warped.xy)


def joined(folder: Path, images: np.ndarray, annotations: Annotations) -> dict[str, AnnotationSet]:
    """Write, read and align annotations."""
    write_annotations(folder / "annotations.h5", annotations)
    return align(read_annotations(folder / "annotations.h5"), images)


def boxes_there_and_back(folder: Path, boxes: pd.DataFrame) -> pd.DataFrame:
    """Write and read boxes.csv."""
    write_table(folder / "boxes.csv", boxes)
    return read_boxes(folder / "boxes.csv")


def peak() -> float:
    """Peak memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main(small: bool) -> None:
    rows, few, repeats = (200, 20, 1) if small else (100_000, 2000, 3)
    before = peak()
    boxes, predictions, annotations = tables(rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways: Ways = {
            "boxes.csv write + read": lambda: boxes_there_and_back(folder, boxes),
            "predictions.h5 write + read": lambda: flat(folder, predictions),
            "annotations.h5 write + read + join": lambda: joined(folder, predictions.images, annotations),
        }
        seconds, found = measure(ways, repeats)
        assert found["boxes.csv write + read"]["image"].tolist() == boxes["image"].tolist(), "boxes differ"
        check(found["predictions.h5 write + read"], predictions)
        place = pd.Index(annotations.images).get_indexer(pd.Index(predictions.images))
        same("join", found["annotations.h5 write + read + join"]["p68"].xy, annotations.sets["p68"].xy[place])
        for way, value in seconds.items():
            print(f"index: {rows} rows: {way}: {value:.4g} s")
        print(f"index: peak memory {peak():.3g} GB, of which {before:.3g} GB before the first table")
        _, part, _ = tables(few)
        groups: Ways = {"uld": lambda: flat(folder, part), "a group an image": lambda: grouped(folder, part)}
        seconds, found = measure(groups, repeats)
        check(found["uld"], found["a group an image"])
        report(f"index, predictions of {few} images", seconds, few, "images", "a group an image")


if __name__ == "__main__":
    run(main)
