"""The fallback chain over a data set."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld import roi
from uld.base import params
from uld.base.errors import DataError, ParamsError
from uld.images import Pixels
from uld.roi import Box
from uld.roi.boxes import Boxes, BoxesParams
from uld.roi.full import Full, FullParams

BOX = Box(1, 1, 5, 5, 0.7)


class Some(roi.Provider):
    """Finds a box in the images named, and remembers which it was asked about."""

    def __init__(self, label: str, names: str, box: Box = BOX) -> None:
        self.label, self.names, self.box = label, names.split(), box
        self.asked: list[str] = []

    def detect(self, images: list[Pixels], ids: list[str]) -> list[Box | None]:
        self.asked += ids
        assert len(images) == len(ids) <= roi.BATCH
        return [self.box if name in self.names else None for name in ids]


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    names = [f"{i:02}.png" for i in range(20)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 10, 3), np.uint8))
    index = pd.DataFrame({"image": names, "split": ["train", "test"] * 10, "status": "ok"})
    index.loc[3, ["split", "status"]] = ["", "duplicate"]
    return tmp_path, index


def test_the_first_that_finds_it_is_recorded(photos: tuple[Path, pd.DataFrame]) -> None:
    root, index = photos
    one, two = Some("one", "00.png 12.png"), Some("two", " ".join(index["image"][:18]), Box(2, 2, 6, 6, 0.1))
    boxes, missing = roi.locate(root, index.iloc[::-1], [one, two], 0.2)
    assert len(one.asked) == 19 and set(one.asked) - set(two.asked) == {"00.png", "12.png"}
    assert boxes["image"].tolist() == [n for n in index["image"][:18] if n != "03.png"]
    assert boxes.columns.tolist() == ["image", "split", "x1", "y1", "x2", "y2", "score", "provider"]
    by_image = boxes.set_index("image")
    assert by_image.loc["12.png"].tolist() == ["train", 1, 1, 5, 5, 0.7, "one"]
    assert by_image.loc["11.png"].tolist() == ["test", 2, 2, 6, 6, 0.1, "two"]
    assert missing["image"].tolist() == ["18.png", "19.png"] and (missing["reason"] == "no box from one, two").all()


def test_full_at_the_end_leaves_nothing_missing(photos: tuple[Path, pd.DataFrame]) -> None:
    root, index = photos
    full = Full(FullParams(), roi.Context(root, root))
    boxes, missing = roi.locate(root, index, [Some("one", "00.png"), full], 0.0)
    assert len(boxes) == 19 and len(missing) == 0
    assert missing.columns.tolist() == ["image", "split", "reason"]


def test_too_many_missing_names_images_and_remedy(photos: tuple[Path, pd.DataFrame]) -> None:
    root, index = photos
    with pytest.raises(DataError, match=r"18 of 19 images .*01.png.*add `full`.*max_missing"):
        roi.locate(root, index, [Some("one", "00.png")], 0.5)
    with pytest.raises(DataError, match=r"no image of split 'test'.*add `full`"):
        roi.locate(root, index, [Some("one", " ".join(index["image"][::2]))], 1.0)


def test_a_box_of_an_unknown_image_is_an_error(photos: tuple[Path, pd.DataFrame]) -> None:
    root, index = photos
    (root / "boxes.csv").write_text("image,x1,y1,x2,y2\n00.png,1,1,5,5\n0O.png,1,1,5,5\nz.png,1,1,5,5\n")
    context = roi.Context(root, root)
    providers = [Boxes(BoxesParams("boxes.csv"), context), Full(FullParams(), context)]
    with pytest.raises(DataError, match=r"^provider boxes:.* has a box of '0O.png' and 1 more, which is no file of"):
        roi.locate(root, index, providers, 0.0)
    unreadable = index[index["status"] != "ok"]["image"].iloc[0]
    (root / "boxes.csv").write_text(f"image,x1,y1,x2,y2\n{unreadable},1,1,5,5\n")
    found, _ = roi.locate(root, index, [Boxes(BoxesParams("boxes.csv"), context), providers[1]], 0.0)
    assert (found["provider"] == "full").all()


@pytest.mark.parametrize("box", [Box(20, 1, 30, 5, 1), Box(-9, 1, -0.6, 5, 1), Box(1, -9, 2, -1, 1)])
def test_a_box_off_the_image_is_an_error(photos: tuple[Path, pd.DataFrame], box: Box) -> None:
    root, index = photos
    with pytest.raises(DataError, match=r"'00.png'.*lies outside its 10 x 8 pixels"):
        roi.locate(root, index, [Some("boxes:1", "00.png", box)], 1.0)


def test_names_and_params() -> None:
    for name in roi.TABLE:
        assert issubclass(roi.kind(name), roi.Provider)
    with pytest.raises(ParamsError, match="'yolo' is no provider; there are full,"):
        roi.kind("yolo")
    good = {"providers": ["full"], "margin": 0, "crop": 64, "border": 0, "max_missing": 0.1}
    assert params.build(roi.RoiParams, good, "roi").providers == ("full",)
    for change in ({"providers": []}, {"margin": -1}, {"crop": 4}, {"border": 0.5}, {"max_missing": 2}, {"margins": 1}):
        with pytest.raises(ParamsError, match=next(iter(change))):
            params.build(roi.RoiParams, good | change, "roi")
