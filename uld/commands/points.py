"""A file of points that teach, made of a mark-up: an experiment with ground truth (Mallis, thesis, 2023, 5.4.2, 6.3.2).

Points of an image are annotated ones, moved a little, among random places in the object's box. Discovery sees annotated
points in no other way, and this one takes two steps: the file is written, and params.yaml names it.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.annotations import align, read_annotations
from uld.artifacts.boxes import read_boxes
from uld.artifacts.files import sha256, write_table
from uld.artifacts.index import read_index
from uld.base import given, random
from uld.base.errors import ULDError
from uld.geometry.frames import corners
from uld.images.crops import Crops
from uld.keypoints.file import BOXES, INDEX

ANNOTATIONS, CROPS = Path("artifacts/data/annotations.h5"), Path("artifacts/roi/crops.zarr")
# of 68 points in the iBUG order, as many of each part as in the thesis: the chin, two of each eyebrow, three of the
# nose, two of each eye, three of the mouth
FIFTEEN = (8, 17, 21, 22, 26, 30, 31, 35, 36, 39, 42, 45, 48, 51, 54)
PLAIN = re.compile(r"[\w./-]+")  # a path that YAML takes for one without quotes

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Mixture:
    """How points of an image are drawn.

    share: of them that are true. least, most: how many there are. moved: how far a true one is moved at most, in
    shares of the crop's side.
    """

    share: float
    least: int
    most: int
    moved: float


@dataclass(frozen=True)
class Scene:
    """N images: annotated points (N, T, 2), NaN where absent; size (N, 2) of the photographs; boxes (N, 4); crops (N,).

    All in pixels of the photographs. crops: sides of the crops.
    """

    true: Floats
    size: Floats
    boxes: Floats
    crops: Floats


def write(path: Path, markup: str, chosen: str | None, count: str, share: float, moved: float, seed: int) -> list[str]:
    """Write a file of points of all training images; see the command's help for what is asked for.

    Returns:
        Lines to print: what the file holds, its hash, and the line of params.yaml that names it.

    Raises:
        ULDError: the file is there already, or there is no such mark-up, point or number of points.
    """
    if given.exists(path):
        raise ULDError(f"{path} is there already: name another file, or remove it.")
    mixture = Mixture(share, *span(count), moved)
    images, scene = _training(markup, chosen)
    _refuse_few(mixture, scene.true.shape[1])
    image, xy, true = mix(scene, mixture, random.rng(seed, "points"))
    write_table(path, pd.DataFrame({"image": images[image], "x": xy[:, 0], "y": xy[:, 1]}))
    return _told(path, len(images), true)


def _told(path: Path, images: int, true: Flags) -> list[str]:
    found = sha256(path)
    name = str(path) if PLAIN.fullmatch(str(path)) else json.dumps(str(path))
    return [
        f"{path}: {len(true)} points in {images} training images, {true.mean():.1%} of them annotated",
        f"sha256: {found}",
        f"keypoints: {{by: file, path: {name}, sha256: {found}}}",
    ]


# --- what is asked for ---


def span(text: str) -> tuple[int, int]:
    """Least and most of `15` or `12-24`.

    Raises:
        ULDError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise ULDError(f"--count {text}: must be a number of points such as 15, or two such as 12-24.")
    return least, most


def numbered(text: str | None, markup: str, points: int) -> list[int]:
    """The points of a mark-up that `text` numbers from 0; without a text 15 of 68, and all of any other mark-up.

    Raises:
        ULDError: there is no such point, or it is named twice.
    """
    if text is None:
        return list(FIFTEEN if points == 68 else range(points))
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise ULDError(f"--points {text}: must be numbers with commas between, such as 30,36,45.")
    found = [int(one) for one in text.split(",")]
    if absent := [one for one in found if one >= points]:
        raise ULDError(f"--points: mark-up {markup} has points 0 to {points - 1}, and no {absent[0]}: leave it out.")
    if len(set(found)) < len(found):
        raise ULDError("--points: a point is named twice: leave one out.")
    return found


def _refuse_few(mixture: Mixture, points: int) -> None:
    if mixture.share * mixture.most > points:
        raise ULDError(
            f"a share of {mixture.share:g} of {mixture.most} points are more than the {points} of the mark-up that are "
            "drawn from: lower --share or --count, or name more --points."
        )


def _training(markup: str, chosen: str | None) -> tuple[NDArray[np.object_], Scene]:
    """Names (N,) of the training images, and where their points are."""
    boxes = read_boxes(BOXES)
    rows = np.flatnonzero(boxes["split"] == "train")
    images = boxes["image"].to_numpy(dtype=object)[rows]
    index = read_index(INDEX).set_index("image").loc[images]
    sets = align(read_annotations(ANNOTATIONS), images)
    if markup not in sets:
        raise ULDError(f"--set: the data have no mark-up '{markup}'; there is {', '.join(sets) or 'none at all'}.")
    xy = sets[markup].xy
    xy = xy[:, numbered(chosen, markup, xy.shape[1])].astype(np.float64)
    if not np.isfinite(xy).all(2).any():
        raise ULDError(f"no training image has one of these points of {markup}: name others, or another mark-up.")
    crops = Crops(CROPS)
    sides = crops.size / crops.affine[rows, 0, 0]
    return images, Scene(xy, index[["width", "height"]].to_numpy(np.float64), corners(boxes)[rows], sides)


# --- what is drawn ---


def mix(scene: Scene, mixture: Mixture, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats, Flags]:
    """Draw the points of all images.

    Annotated ones are drawn without repeats among those that lie in the photograph, and each is moved within a disc.
    The share holds on average over the images. Where an image has too few of them, more of its points are random.

    Returns:
        image (P,), rising; xy (P, 2), those of an image in random order; and which of them are annotated, (P,).
    """
    images, most = len(scene.true), mixture.most
    count = rng.integers(mixture.least, most + 1, images)
    wanted = np.floor(mixture.share * count + rng.random(images))
    there = np.all((scene.true >= -0.5) & (scene.true <= scene.size[:, None] - 0.5), axis=2)
    drawn = _some(there, wanted, rng)
    left = np.arange(most) < (count - drawn.sum(1))[:, None]
    xy = np.concatenate([_moved(scene, mixture.moved, rng), _random(scene, most, rng)], axis=1)
    image, slot = np.nonzero(np.concatenate([drawn, left], axis=1))
    shuffled = np.lexsort((rng.random(len(image)), image))
    image, slot = image[shuffled], slot[shuffled]
    return image, xy[image, slot], slot < scene.true.shape[1]


def _some(there: Flags, wanted: Floats, rng: np.random.Generator) -> Flags:
    """Of the flags (N, T) that are set in each line, `wanted` (N,) at random, or all where they are fewer."""
    key = np.where(there, rng.random(there.shape), np.inf)
    return there & (key.argsort(1).argsort(1) < wanted[:, None])


def _moved(scene: Scene, share: float, rng: np.random.Generator) -> Floats:
    """Annotated points (N, T, 2), each moved within a disc, and kept in its photograph."""
    shape = scene.true.shape[:2]
    angle, far = 2 * np.pi * rng.random(shape), np.sqrt(rng.random(shape)) * share * scene.crops[:, None]
    moved = scene.true + far[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    return np.clip(moved, -0.5, scene.size[:, None] - 0.5)


def _random(scene: Scene, count: int, rng: np.random.Generator) -> Floats:
    """Places (N, count, 2) in what of the object boxes lies in the photographs."""
    low, high = (
        np.maximum(scene.boxes[:, None, :2], -0.5),
        np.minimum(scene.boxes[:, None, 2:], scene.size[:, None] - 0.5),
    )
    return low + (high - low) * rng.random((len(scene.boxes), count, 2))
