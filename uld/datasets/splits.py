"""Which images train and which are held out; no group (person, animal, clip) is ever in both."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uld.artifacts.files import SPLITS
from uld.base.errors import DataError
from uld.base.shown import short
from uld.datasets import tables

SAYS = "image,split[,group][,yaw]"
MOST_YAW = 180  # degrees to either side


def draw(group: NDArray[Any], test: float, rng: np.random.Generator) -> NDArray[Any]:
    """A random split, whole groups together.

    Args:
        group: (N,) names; an image without one ("") is its own group.
        test: share of images to hold out; met as nearly as whole groups allow, and neither split is empty.
        rng: source of randomness.

    Returns:
        (N,) "train" or "test".
    """
    alone = group == ""
    names, codes = np.unique(group[~alone], return_inverse=True)
    label = np.empty(len(group), dtype=np.int64)
    label[~alone] = codes
    label[alone] = len(names) + np.arange(alone.sum())
    sizes = np.bincount(label)
    if len(sizes) < 2:
        raise DataError(f"all images are of one group ('{group[0]}'): a split needs two; name groups in split.csv.")
    order = rng.permutation(len(sizes))
    held = np.cumsum(sizes[order])
    take = np.clip(np.abs(held - test * len(group)).argmin() + 1, 1, len(sizes) - 1)
    return np.where(np.isin(label, order[:take]), "test", "train").astype(object)


def check(index: pd.DataFrame) -> None:
    """Refuse an empty split and a group on both sides.

    Raises:
        DataError: naming the split or the group.
    """
    for name in SPLITS:
        if not (index["split"] == name).any():
            raise DataError(f"no usable image is in split '{name}': mend split.csv or the images it names.")
    known = index[index["group"] != ""]
    sides = known.groupby("group")["split"].nunique()
    if (sides > 1).any():
        raise DataError(
            f"group '{sides.index[sides > 1][0]}' has images in both splits: split.csv must not divide a group."
        )


def from_csv(path: Path, images: NDArray[Any]) -> pd.DataFrame:
    """Read `image,split[,group][,yaw]`.

    Args:
        path: the table.
        images: (N,) ids of the files found.

    Returns:
        (N rows) image, split, group, in the order of `images`, and yaw in degrees if that of any image is known.

    Raises:
        DataError: as `tables.read`; unknown split name, unknown or repeated image, an image that it leaves out, or a
            yaw that is no angle between -180 and 180 degrees.
    """
    read = tables.read(path, ["image", "split"], SAYS, dtype=str, keep_default_na=False)
    table = read.frame
    read.refuse(
        ~table["split"].isin(SPLITS).to_numpy(),
        lambda row: f"split '{short(table['split'][row])}' must be train or test: correct it.",
    )
    known = pd.Index(images)
    _refuse(path, table["image"][~table["image"].isin(known)], "names no file below the folder: remove or correct it")
    _refuse(path, table["image"][table["image"].duplicated()], "is listed twice: keep one line")
    _refuse(path, pd.Series(known[~known.isin(table["image"])]), "is missing in it: add a line, or remove the file")
    if "group" not in table:
        table["group"] = ""
    table["yaw"] = _yaw(read)
    columns = ["split", "group", *(["yaw"] if table["yaw"].notna().any() else [])]
    return table.set_index("image").loc[known, columns].rename_axis("image").reset_index()


def _yaw(read: tables.Table) -> NDArray[np.float64]:
    """(N,) degrees, NaN where the cell is empty or there is no such column."""
    if "yaw" not in read.frame:
        return np.full(len(read.lines), np.nan)
    read.needs(["yaw"], SAYS)
    told = read.frame["yaw"]
    read.frame["yaw"] = told.mask(told == "")
    return degrees(read)


def degrees(read: tables.Table) -> NDArray[np.float64]:
    """The column `yaw` (N,).

    Raises:
        DataError: one of them is no number, or lies outside -180 to 180 degrees.
    """
    yaw, told = read.numbers(["yaw"])[:, 0], read.frame["yaw"]
    read.refuse(
        np.abs(yaw) > MOST_YAW,
        lambda row: f"yaw '{short(str(told[row]))}' lies outside -{MOST_YAW} to {MOST_YAW} degrees: correct it.",
    )
    return yaw


def _refuse(path: Path, images: "pd.Series[str]", why: str) -> None:
    if len(images):
        more = f" (and {len(images) - 1} more)" if len(images) > 1 else ""
        raise DataError(f"{path}: image '{short(images.iloc[0])}'{more} {why}.")
