"""The generated folder, and the data set that reads it."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from uld.base.errors import DataError
from uld.datasets.faces3d import Faces3d, Faces3dParams
from uld.datasets.heads3d.photo import photo
from uld.datasets.heads3d.write import write
from uld.datasets.index import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faces") / "heads"
    write(place, 50, 3, 48)
    return place


def test_files_and_table(folder: Path) -> None:
    table = pd.read_csv(folder / "faces.csv")
    assert sorted(path.name for path in folder.iterdir()) == ["boxes.csv", "faces.csv", "images"]
    assert len(table) == 50 == len(list((folder / "images").iterdir()))
    assert table["person"].tolist() == [i // 10 for i in range(50)]
    assert set(table.loc[table["split"] == "test", "person"]) == {3}
    one = photo(3, 37, 48)
    line = table.iloc[37]
    np.testing.assert_array_equal(cv2.imread(str(folder / line["image"]))[:, :, ::-1], one.image)
    np.testing.assert_allclose(line[[f"x{i}" for i in range(68)]].to_numpy(float), one.xy[:, 0], atol=6e-4)
    np.testing.assert_array_equal(line[[f"v{i}" for i in range(68)]].to_numpy(bool), one.visible)
    assert line["yaw"] == pytest.approx(one.yaw)


def test_boxes_are_about_the_points(folder: Path) -> None:
    table, boxes = pd.read_csv(folder / "faces.csv"), pd.read_csv(folder / "boxes.csv")
    assert boxes["image"].tolist() == table["image"].tolist()
    x, y = (table[[f"{axis}{i}" for i in range(68)]].to_numpy() for axis in "xy")
    for points, low, high in ((x, "x1", "x2"), (y, "y1", "y2")):
        side = np.ptp(points, axis=1)
        shift = ((boxes[low] + boxes[high]) / 2 - (points.min(1) + points.max(1)) / 2) / side
        assert 0.02 < shift.std() < 0.04 and abs(shift.mean()) < 0.02
        assert 0.02 < np.log((boxes[high] - boxes[low]) / side).std() < 0.06


def test_fewer_are_the_first_of_more(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "few", 20, 3, 48)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "few/faces.csv"), pd.read_csv(folder / "faces.csv")[:20])
    for name in ("images/000000.png", "images/000019.png"):
        assert (tmp_path / "few" / name).read_bytes() == (folder / name).read_bytes()
    write(tmp_path / "few", 20, 4, 48)  # again, with other people
    assert len(list((tmp_path / "few/images").iterdir())) == 20
    assert (tmp_path / "few/images/000000.png").read_bytes() != (folder / "images/000000.png").read_bytes()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"1")
    with pytest.raises(DataError, match="holds other files"):
        write(tmp_path, 20, 0, 48)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.jpg"]


def test_data_set(folder: Path) -> None:
    index, annotations = build(Faces3d(folder, Faces3dParams()), 0)
    table = pd.read_csv(folder / "faces.csv")
    assert index["yaw"].tolist() == table["yaw"].tolist() and set(index["status"]) == {"ok"}
    assert index["split"].tolist() == table["split"].tolist()
    whole, five = annotations.sets["p68"], annotations.sets["p5"]
    assert whole.xy.shape == (50, 68, 2) and five.xy.shape == (50, 5, 2)
    assert whole.left == whole.right == ()  # from the side the eyes fall together
    np.testing.assert_allclose(whole.xy[37, 30], table.loc[37, ["x30", "y30"]].to_numpy(float), atol=1e-4)
    np.testing.assert_allclose(five.xy[:, 0], whole.xy[:, 36:42].mean(1), atol=1e-4)


def test_unfinished_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="uld faces3d"):
        build(Faces3d(tmp_path, Faces3dParams()), 0)
