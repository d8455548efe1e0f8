"""Crops: geometry against closed forms, and the store."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from uld.base.errors import ArtifactError
from uld.geometry import coords
from uld.images import crops, cut


def ramp(height: int, width: int) -> np.ndarray:
    """A photograph whose value is linear in x (red), y (green) and constant (blue)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 200 * x / width, 20 + 200 * y / height, np.full_like(x, 77)], axis=2).round().astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(60, 300),
    height=st.integers(60, 300),
    left=st.floats(0, 0.4),
    top=st.floats(0, 0.4),
    size=st.integers(8, 96),
)
def test_a_linear_photograph_stays_linear(width: int, height: int, left: float, top: float, size: int) -> None:
    """Bilinear and area sampling are both exact on a ramp, so any half-pixel slip shows, shrinking or not."""
    box = np.array([[left * width, top * height, left * width + 50, top * height + 40]])
    affine = coords.crop(box, 0.1, size)[0]
    crop, inside = cut.cut(ramp(height, width), affine, size)
    y, x = np.mgrid[:size, :size]
    at = coords.apply(coords.invert(affine), np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(float))[0]
    at = at.reshape(size, size, 2)
    # away from the border, where padding begins, by one cell of the coarser grid
    cell = max(1.0, 1 / affine[0, 0]) + 1
    clear = (at > cell).all(-1) & (at < np.array([width, height]) - 1 - cell).all(-1)
    want = np.stack([20 + 200 * at[..., 0] / width, 20 + 200 * at[..., 1] / height], axis=-1)
    assert np.abs(crop[..., :2] - want)[clear].max(initial=0) <= 1.6  # one for rounding in, a half for rounding out
    assert (crop[..., 2] == 77).all()
    strict = (at > -0.499).all(-1) & (at < np.array([width, height]) - 0.501).all(-1)
    assert inside[strict].all()


def test_a_ramp_has_no_mean_shift_when_shrunk_much() -> None:
    """Averages over the crop show a shift of a hundredth of a crop pixel."""
    affine = coords.crop(np.array([[99.5, 99.5, 899.5, 899.5]]), 0.0, 32)[0]
    photo = np.tile(np.linspace(0, 250, 1000)[None, :, None], (1000, 1, 3)).round().astype(np.uint8)
    crop, _ = cut.cut(photo, affine, 32)
    want = 250 * (coords.apply(coords.invert(affine), np.array([[[15.5, 0.0]]]))[0, 0, 0]) / 999
    assert abs(crop[..., 0].mean() - want) < 0.01 * 250 * 25 / 1000 + 0.1


def test_identity_is_exact_and_inside() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    crop, inside = cut.cut(photo, coords.crop(np.array([[-0.5, -0.5, 19.5, 19.5]]), 0.0, 20)[0], 20)
    assert np.array_equal(crop, photo) and inside.all()


def test_whole_shrink_is_the_area_mean() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    crop, _ = cut.cut(photo, coords.crop(np.array([[-0.5, -0.5, 63.5, 63.5]]), 0.0, 16)[0], 16)
    want = photo.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(crop - want).max() <= 1


def test_fine_texture_does_not_alias() -> None:
    board = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)
    affine = coords.crop(np.array([[50.3, 50.7, 330.0, 330.0]]), 0, 60)[0]
    crop, _ = cut.cut(np.repeat(board[..., None], 3, 2), affine, 60)
    assert np.abs(crop.astype(int) - 127).max() < 12


def test_outside_is_mirrored_and_marked() -> None:
    photo = ramp(30, 30)
    crop, inside = cut.cut(photo, coords.crop(np.array([[-10.5, -0.5, 19.5, 29.5]]), 0.0, 30)[0], 30)
    assert np.array_equal(inside.sum(axis=1), np.full(30, 20)) and not inside[:, :10].any()
    assert np.array_equal(crop[:, :10], photo[:, 10:0:-1])


def test_a_border_is_not_inside() -> None:
    """A photograph of 60 x 30 pixels in a crop of 40 that halves it: a tenth of 40 is 4 pixels of the crop."""
    photo, affine = ramp(30, 60), coords.crop(np.array([[-10.5, -26.5, 69.5, 53.5]]), 0.0, 40)[0]
    crop, plain = cut.cut(photo, affine, 40)
    same, inside = cut.cut(photo, affine, 40, 0.1)
    assert np.array_equal(same, crop) and plain.any(0).sum() == 30 and plain.any(1).sum() == 15
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (columns[0], columns[-1], rows[0], rows[-1]) == (5 + 4, 34 - 4, 13 + 4, 27 - 4)
    assert inside.sum() == len(rows) * len(columns)


def test_a_photograph_smaller_than_the_crop() -> None:
    affine = coords.crop(np.array([[-0.5, -0.5, 4.5, 2.5]]), 0.2, 64)[0]
    crop, inside = cut.cut(np.full((3, 5, 3), 9, np.uint8), affine, 64)
    assert (crop == 9).all() and 0 < inside.mean() < 0.5


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    rng = np.random.default_rng(3)
    names = [f"{i:03}.png" for i in range(11)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    edges = {"x1": 2.5, "y1": 1.5, "x2": 18.5, "y2": 15.5}
    return tmp_path, pd.DataFrame({"image": names, "split": "train", **edges})


def test_store_round_trip_and_determinism(photos: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    root, boxes = photos
    monkeypatch.setattr(cut, "SHARD", 4)  # three shards, the last one not full
    for name, workers in (("a.zarr", "1"), ("b.zarr", "3"), ("b.zarr", "2")):  # over an old one too
        monkeypatch.setenv("ULD_THREADS", workers)
        cut.write(root / name, root, boxes, 0.2, 16)
    store = crops.Crops(root / "a.zarr")
    assert (len(store), store.size, store.affine.shape) == (11, 16, (11, 2, 3))
    rows = np.array([10, 0, 7, 7])
    for got, mask, row in zip(store.images(rows), store.inside(rows), rows, strict=True):
        photo = cv2.imread(str(root / boxes["image"][row]))[..., ::-1].copy()
        want, inside = cut.cut(photo, store.affine[row], 16)
        assert np.array_equal(got, want) and np.array_equal(mask, inside)
    assert np.array_equal(store.images(slice(2, 5)), store.images(np.arange(2, 5)))
    files = {p.relative_to(root / "a.zarr"): p.read_bytes() for p in (root / "a.zarr").rglob("*") if p.is_file()}
    again = {p.relative_to(root / "b.zarr"): p.read_bytes() for p in (root / "b.zarr").rglob("*") if p.is_file()}
    assert files == again
    assert len([p for p in files if p.parts[0] == "images" and "c" in p.parts]) == 3


def test_fingerprint_follows_the_content(photos: tuple[Path, pd.DataFrame]) -> None:
    root, boxes = photos
    cut.write(root / "a.zarr", root, boxes, 0.2, 16)
    cut.write(root / "b.zarr", root, boxes, 0.25, 16)
    assert crops.Crops(root / "a.zarr").fingerprint() != crops.Crops(root / "b.zarr").fingerprint()


def test_a_broken_run_leaves_nothing_that_looks_complete(photos: tuple[Path, pd.DataFrame]) -> None:
    root, boxes = photos
    (root / "009.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"009.png"):
        cut.write(root / "a.zarr", root, boxes, 0.2, 16)
    with pytest.raises(ArtifactError, match="dvc repro roi"):
        crops.Crops(root / "a.zarr")


def test_an_incomplete_store_is_refused(photos: tuple[Path, pd.DataFrame]) -> None:
    root, _ = photos
    zarr.open_group(root / "a.zarr", mode="w").create_array("images", shape=(2, 4, 4, 3), dtype="uint8")
    with pytest.raises(ArtifactError, match="incomplete"):
        crops.Crops(root / "a.zarr")
