"""ZeroShot finds planted landmarks, and the same ones whatever the batch size."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from tests.methods.conftest import MIRROR, PLAIN, Planted, task
from uld.artifacts.found import Found
from uld.base.errors import ULDError
from uld.base.params import build
from uld.cluster import kmeans, search
from uld.landmarks.draw import DrawParams, describe, draw
from uld.methods import load
from uld.methods.base import Discovery, Method

BLOCK = {"points": 80, "max_points": 100_000, "restarts": 3, "iterations": 40, "refine": True}
TRAIN, TEST = np.arange(40), np.arange(40, 60)


def method(**changes: object) -> Method:
    kind = load("zeroshot")
    return kind(build(kind.Cluster, BLOCK | changes, "methods.zeroshot.cluster"))


def discover(source: Planted, count: int = 5, **changes: object) -> Discovery:
    return method(**changes).discover(task(source, TRAIN, count))


def slots(found: Found, source: Planted) -> np.ndarray:
    """Which landmark stands for each part, decided on the first test image alone."""
    gap = np.linalg.norm(source.centres[TEST[0]][:, None] - found.dense_xy[0], axis=2)
    return linear_sum_assignment(gap)[1]


@pytest.mark.parametrize("refine", [True, False])
def test_finds_planted_parts_in_every_image(planted: Planted, refine: bool) -> None:
    landmarks = discover(planted).landmarks
    found = method(refine=refine).find(planted, landmarks, TEST, PLAIN)
    slot = slots(found, planted)
    for xy in (found.xy, found.dense_xy):
        error = np.abs(xy[:, slot] - planted.centres[TEST]).max()
        assert error < (0.35 if refine else 0.75)
    assert (found.score[:, slot] > 0.95).all()


def test_find_in_a_view(planted: Planted) -> None:
    landmarks = discover(planted).landmarks
    plain, mirror = (method().find(planted, landmarks, TEST, view) for view in (PLAIN, MIRROR))
    slot = slots(plain, planted)
    for found, view in ((plain, PLAIN), (mirror, MIRROR)):
        xy = planted.to_image(TEST, found.xy, view)[:, slot]
        np.testing.assert_allclose(xy, planted.to_image(TEST, planted.centres[TEST]), atol=1.1)


def test_exemplars_show_the_parts(planted: Planted) -> None:
    discovery = discover(planted)
    landmarks = discovery.landmarks
    slot = slots(method().find(planted, landmarks, TEST, PLAIN), planted)
    assert landmarks.exemplar_image.shape == (5, 8) and (landmarks.exemplar_image >= 0).all()
    assert all(len(np.unique(row)) == 8 for row in landmarks.exemplar_image)
    for part, k in enumerate(slot):
        rows = landmarks.exemplar_image[k]
        truth = planted.to_image(rows, planted.centres[rows, part][:, None])[:, 0]
        np.testing.assert_allclose(landmarks.exemplar_xy[k], truth, atol=3)
    assert landmarks.sample.shape == (2000, 13) and landmarks.sample.dtype == np.float16
    assert landmarks.sample_label.shape == (2000,) and landmarks.counts.sum() == 3200
    assert discovery.quality["points"] == 3200 and discovery.quality["silhouette"] > 0.5


def test_descriptors_between_cells_have_unit_length(planted: Planted) -> None:
    positions = draw(TRAIN, DrawParams(30, 10_000), np.random.default_rng(0))
    xy, x = describe(planted, positions, PLAIN)
    assert xy.shape == (1200, 2) and x.shape == (1200, 13)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("batch", ["1", "7", "1000"])
def test_batch_size_does_not_matter(planted: Planted, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = discover(planted)
    planted.asked.clear()
    monkeypatch.setenv("ULD_BATCH", batch)
    found = discover(planted)
    assert max(planted.asked) <= int(batch)
    for name, value in vars(expected.landmarks).items():
        if value is not None:
            np.testing.assert_allclose(getattr(found.landmarks, name), value, atol=1e-5)
    assert found.quality == pytest.approx(expected.quality)


def test_max_points_bounds_the_points(planted: Planted) -> None:
    assert discover(planted, max_points=400).quality["points"] == 400
    planted.asked.clear()
    assert discover(planted, max_points=20).quality["points"] == 20
    assert sum(planted.asked) == 20


def test_few_images_leave_exemplars_absent(planted: Planted) -> None:
    landmarks = method().discover(task(planted, TRAIN[:3], 5)).landmarks
    assert (landmarks.exemplar_image[:, 3:] == -1).all() and np.isnan(landmarks.exemplar_xy[:, 3:]).all()


def test_more_landmarks_than_points(planted: Planted) -> None:
    with pytest.raises(ULDError, match="fewer landmarks"):
        discover(planted, count=41, points=1)
    with pytest.raises(ULDError, match="of 0 points"):
        method().discover(task(planted, TRAIN[:0], 5))


def test_torch_and_faiss_share_threads(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_THREADS", "2")
    monkeypatch.setattr(search, "ONE_THREAD", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for seed in range(3):
        big = torch.randn(300, 300) @ torch.randn(300, 300)
        kmeans.fit(big.numpy(), 4, np.random.default_rng(seed), restarts=2, iterations=5, cap=300)
    torch.set_num_threads(before)
