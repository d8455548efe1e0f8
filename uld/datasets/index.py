"""The index of a data set: every file found, read once, hashed, decoded and split."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from uld.artifacts.annotations import Annotations
from uld.base import random, runtime
from uld.base.errors import DataError
from uld.datasets import splits, subset
from uld.datasets.base import Dataset
from uld.images import decode

COLUMNS = ["image", "split", "group", "width", "height", "sha256", "status", "reason"]
SHOWN = 5  # paths listed in a message


class _Facts(NamedTuple):
    width: int
    height: int
    sha256: str
    reason: str


def build(dataset: Dataset, seed: int) -> tuple[pd.DataFrame, Annotations]:
    """Index (docs/artifacts.md) and annotations of a data set; the index has a `yaw` if the data set knows it.

    Unreadable files, byte-identical copies and files that a subset leaves out stay in the index with their reason,
    without a split; of copies the first by id is kept. Where the data set brings no split, one is drawn from
    (seed, "split"), whole groups together: of the files that can be used, or of all before a subset is chosen.

    Raises:
        DataError: nothing usable, more than `dataset.max_bad` of the files unreadable, or a split or mark-up that does
            not fit the images.
    """
    used, unused = _divide(dataset, seed)
    index = _mark(_inspect(dataset.root, used))
    _refuse_bad(index, dataset)
    index = pd.concat([index, unused]).sort_index() if len(unused) else index
    ok = index["status"] == "ok"
    index.loc[~ok, "split"] = ""
    if (index.loc[ok, "split"] == "").all():
        index.loc[ok, "split"] = _draw(index[ok], dataset, seed)
    splits.check(index[ok])
    columns = [*COLUMNS, *(name for name in ("yaw",) if name in index)]
    return index[columns], dataset.annotations(index[columns])


def _divide(dataset: Dataset, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files that are looked at, and as lines of the index those that the subset leaves out."""
    files = dataset.files()
    if dataset.subset is None:
        return files, files[:0]
    if (files["split"] == "").all():
        files["split"] = _draw(files, dataset, seed)
    used = subset.chosen(files["split"].to_numpy(object), dataset.subset, seed)
    return files[used], subset.unused(files[~used])


def _draw(files: pd.DataFrame, dataset: Dataset, seed: int) -> NDArray[Any]:
    """A split (N,) of files (N rows)."""
    return splits.draw(files["group"].to_numpy(object), dataset.test, random.rng(seed, "split"))


def _inspect(root: Path, files: pd.DataFrame) -> pd.DataFrame:
    """`files` with width, height, sha256 and the reason why a file cannot be used; read in parallel, bounded memory."""

    def look(image: str) -> _Facts:
        digest = ""
        try:
            data = decode.read(root / image)
            digest = hashlib.sha256(data).hexdigest()
            height, width = decode.decode_bytes(data, image).shape[:2]
        except DataError as error:
            return _Facts(0, 0, digest, str(error).removeprefix(f"{root / image}: ").removeprefix(f"{image}: "))
        return _Facts(width, height, digest, "")

    found = decode.ahead(look, files["image"], runtime.threads())
    shown = track(found, "reading images", total=len(files), console=Console(stderr=True))
    facts = pd.DataFrame(shown, index=files.index, columns=list(_Facts._fields))
    return pd.concat([files, facts], axis=1)


def _mark(index: pd.DataFrame) -> pd.DataFrame:
    """Fill `status`, and the reason of duplicates."""
    readable = index["reason"] == ""
    index["status"] = np.where(readable, "ok", "unreadable")
    copy = readable & index["sha256"].where(readable).duplicated()
    first = index.groupby("sha256")["image"].transform("first")
    index.loc[copy, "status"] = "duplicate"
    index.loc[copy, "reason"] = "same bytes as " + first[copy]
    return index


def _refuse_bad(index: pd.DataFrame, dataset: Dataset) -> None:
    bad = index[index["status"] == "unreadable"]
    if len(bad) > dataset.max_bad * len(index):
        lines = [
            f"  {image}: {reason}" for image, reason in zip(bad["image"][:SHOWN], bad["reason"][:SHOWN], strict=True)
        ]
        more = [f"  and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        raise DataError(
            f"{len(bad)} of {len(index)} files below {dataset.root} are unreadable, more than the share "
            f"{dataset.max_bad:g} allowed (max_bad): see to them as each reason says, or raise max_bad.\n"
            + "\n".join(lines + more)
        )
    usable = int((index["status"] == "ok").sum())
    if usable < 2:
        raise DataError(f"{dataset.root}: usable images: {usable}; at least 2 are needed, one of each split.")
