"""Descriptors on disk: they read as an array does, and what is computed piece by piece is what is of the whole."""

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from uld.base.errors import ULDError
from uld.cluster import kmeans, spool, two_stage
from uld.cluster.quality import quality
from uld.cluster.spool import PIECE, Spool, pieces, take
from uld.landmarks import label
from uld.landmarks.label import Pool

ROWS, SMALL = 3 * 2**13 + 7, 2**13  # points, and rows a piece; with 16 values each faiss takes its way for large tables


def points(rows: int = ROWS, size: int = 16, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def spooled(x: np.ndarray, each: int = 1000) -> Spool:
    out = Spool()
    for start in range(0, len(x), each):
        out.append(x[start : start + each])
    return out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PIECE", SMALL)


def same(one: Any, other: Any) -> None:
    """Equal in every bit."""
    one, other = (value[:] if isinstance(value, Spool) else value for value in (one, other))
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


# --- the file ---


@pytest.mark.parametrize(
    ("count", "edges"), [(0, [0, 0]), (1, [0, 1]), (19, [0, 19]), (20, [0, 10, 20]), (35, [0, 10, 20, 35])]
)
def test_pieces(monkeypatch: pytest.MonkeyPatch, count: int, edges: list[int]) -> None:
    monkeypatch.setattr(spool, "PIECE", 10)
    assert list(pieces(count)) == [slice(a, b) for a, b in pairwise(edges)]


@settings(max_examples=40, deadline=None)
@given(
    x=arrays.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(width=32)),
    each=st.integers(1, 9),
    piece=st.integers(1, 9),
    data=st.data(),
)
def test_reads_as_an_array(x: np.ndarray, each: int, piece: int, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "PIECE", piece)
        kept = spooled(x, each)
        assert len(kept) == len(x) and kept.shape == x.shape
        same(kept, x)
        some = data.draw(st.slices(len(x)).filter(lambda cut: cut.step in (None, 1)))
        same(kept[some], x[some])
        rows = np.array(data.draw(st.lists(st.integers(0, len(x) - 1))), dtype=np.int64)
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(x), max_size=len(x))))
        for index in (rows, mask):
            same(kept[index], x[index])
            same(take(kept, index), x[index])
            same(take(x, index), x[index])


def test_grows_while_it_is_read() -> None:
    x = points(30)
    kept = spooled(x[:10])
    before = kept[2:5]
    kept.append(x[10:])
    same(kept, x)
    same(before, x[2:5])


def test_leaves_nothing_in_the_scratch_folder() -> None:
    folder = Path(os.environ["ULD_SCRATCH"])
    kept = spooled(points(100))
    piece = kept[10:20]
    assert list(folder.iterdir()) == []
    files = len(os.listdir("/proc/self/fd"))
    del kept
    assert len(os.listdir("/proc/self/fd")) == files - 1
    same(piece, points(100)[10:20])


def test_without_rows() -> None:
    kept = Spool()
    assert len(kept) == 0 and kept[:].shape == (0, 0)
    kept.append(np.empty((0, 5), np.float32))
    assert kept[:].shape == kept[np.empty(0, np.int64)].shape == take(kept, np.empty(0, bool))[:].shape == (0, 5)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "unnamed_file", lambda: io.FileIO("/dev/full", "r+"))
    with pytest.raises(OSError, match="No space left"):
        Spool().append(points(10))


def test_a_file_that_takes_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:1000])

    monkeypatch.setattr(spool, "unnamed_file", lambda: Slow(tmp_file, "r+"))
    tmp_file = Path(os.environ["ULD_SCRATCH"]) / "slow"
    tmp_file.touch()
    same(spooled(points(300), 90), points(300))


# --- what is computed of pieces ---


@pytest.mark.parametrize("size", [16, 33, 64])
def test_nearest(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    x, centroids = points(size=size), points(7, size, 1)
    whole = kmeans.nearest(x, centroids), kmeans.of(x, centroids)
    monkeypatch.setattr(spool, "PIECE", SMALL)
    for pieced in (x, spooled(x)):
        for one, other in zip(whole[0], kmeans.nearest(pieced, centroids), strict=True):
            same(one, other)
        same(whole[1], kmeans.of(pieced, centroids))


@pytest.mark.parametrize("size", [1, 2, 10, 64])
def test_nearest_at_the_size_that_is_used(size: int) -> None:
    x, centroids = points(2 * PIECE + 11, size), points(3, size, 1)
    distance, found = kmeans.faiss.knn(x, centroids, 1)
    for one, other in zip((found[:, 0], distance[:, 0]), kmeans.nearest(spooled(x, 50_000), centroids), strict=True):
        same(np.ascontiguousarray(one), other)


@pytest.mark.parametrize("cap", [10**6, 3000])
@pytest.mark.parametrize("warm", [False, True])
def test_clusters(monkeypatch: pytest.MonkeyPatch, cap: int, warm: bool) -> None:
    x = points()
    init = points(5, seed=1) if warm else None

    def fitted(x: Any) -> tuple[Any, Any]:
        rng = np.random.default_rng(3)
        found = kmeans.fit(x, 5, rng, restarts=2, iterations=8, cap=cap, init=init)
        return found, quality(x, found, rng)

    whole = fitted(x)
    monkeypatch.setattr(spool, "PIECE", SMALL)
    for pieced in (fitted(x), fitted(spooled(x))):
        same(whole[0], pieced[0])
        assert whole[1] == pieced[1]


@pytest.mark.usefixtures("small")
def test_values_that_are_not_finite_in_any_piece() -> None:
    x = points()
    x[[5, 9000, ROWS - 1], 2] = np.nan, np.inf, -np.inf
    with pytest.raises(ULDError, match=f"3 of {ROWS} descriptors"):
        kmeans.fit(spooled(x), 3, np.random.default_rng(0), restarts=1, iterations=2, cap=100)


def pool_of(x: Any) -> Pool:
    rng = np.random.default_rng(4)
    half = len(x) // 2
    flipped = np.repeat([False, True], [half, len(x) - half])
    image = np.concatenate([np.sort(rng.integers(0, 900, n)) for n in (half, len(x) - half)])
    return Pool(image, flipped, rng.normal(size=(len(x), 2)).astype(np.float32), x)


def test_what_is_made_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    x, centroids = points(), points(6, seed=1)

    def made(points: Pool) -> tuple[Any, ...]:
        kept, own = label.closest(points, centroids)
        rng = np.random.default_rng(0)
        return kept, own, label.of_pool(kept, own, centroids), label.picture(points, centroids, rng)

    whole = made(pool_of(x))
    monkeypatch.setattr(spool, "PIECE", SMALL)
    pieced = made(pool_of(spooled(x)))
    assert isinstance(pieced[0].descriptor, Spool) and 900 < len(whole[1]) < ROWS
    for one, other in zip(whole, pieced, strict=True):
        same(one, other)


def test_clusters_of_each_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    x, start, rng = points(), points(6, seed=1), np.random.default_rng(0)
    pose, xy = (rng.random(ROWS) < 0.9).astype(int), rng.random((ROWS, 2))

    def made(x: Any) -> Any:
        return two_stage.keypoint_clusters(x, pose, xy, start, 2, iterations=6, prior=20.0)

    whole = made(x)
    monkeypatch.setattr(spool, "PIECE", SMALL)
    same(whole, made(spooled(x)))


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_sums_are_added_in_the_order_of_the_points(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    x = (points(500) * 10.0 ** np.random.default_rng(0).integers(-6, 7, (500, 1))).astype(np.float32)
    own = np.random.default_rng(1).integers(0, 4, 500)
    whole = two_stage._membership(own, 5) @ x
    plain = np.zeros((5, 16))
    for one, k in zip(x, own, strict=True):
        plain[k] += one
    monkeypatch.setattr(spool, "PIECE", piece)
    for found in (plain, two_stage._sums(x, own, 5), two_stage._sums(spooled(x), own, 5)):
        same(whole, found)
