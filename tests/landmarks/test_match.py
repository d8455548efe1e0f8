"""Exemplar assignment against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from uld.landmarks import match
from uld.landmarks.detect import Points
from uld.landmarks.match import dense, exemplars, exemplars_of


@given(seed=st.integers(0, 2**16), points=st.integers(0, 60), ties=st.booleans())
def test_exemplars_equal_naive_loop(seed: int, points: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    image, label = rng.integers(0, 5, points), rng.integers(0, 4, points)
    distance = rng.integers(0, 3, points) / 2 if ties else rng.random(points)
    best: dict[tuple[int, int], int] = {}
    for i in range(points):
        key = (int(image[i]), int(label[i]))
        if key not in best or distance[i] < distance[best[key]]:
            best[key] = i
    assert exemplars(image, label, distance).tolist() == [best[key] for key in sorted(best)]


def scene(seed: int, k: int = 4) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rng = torch.Generator().manual_seed(seed)
    descriptors = F.normalize(torch.randn(3, 6, 5, 5, generator=rng), dim=1)
    inside = torch.rand(3, 5, 5, generator=rng) < 0.6
    centroids = torch.randn(k, 6, generator=rng) * torch.rand(k, 1, generator=rng)
    return descriptors, inside, centroids.numpy()


def clusters(descriptors: torch.Tensor, centroids: np.ndarray) -> np.ndarray:
    """(B, G, G): the nearest centroid of each cell."""
    x = descriptors.numpy().transpose(0, 2, 3, 1)
    return ((x[..., None, :] - centroids) ** 2).sum(axis=-1).argmin(-1)


@given(seed=st.integers(0, 2**16), k=st.integers(1, 30))
def test_dense_equals_naive_loop(seed: int, k: int) -> None:
    descriptors, inside, centroids = scene(seed, k)
    found = dense(descriptors, inside, centroids, refine=False).found()
    anywhere = dense(descriptors, inside, centroids, refine=False, anywhere=True).found()
    np.testing.assert_array_equal(anywhere.xy, found.xy)
    np.testing.assert_array_equal(anywhere.score, found.score)
    x = descriptors.numpy().transpose(0, 2, 3, 1)
    gap = ((x[..., None, :] - centroids) ** 2).sum(axis=-1)

    def cosine(b: int, j: int, cx: int, cy: int) -> float:
        return pytest.approx(x[b, cy, cx] @ centroids[j] / np.linalg.norm(centroids[j]), abs=1e-5)

    for b in range(3):
        roi = np.argwhere(inside[b].numpy())
        label = {(cx, cy): int(gap[b, cy, cx].argmin()) for cy, cx in roi}
        for j in range(k):
            most = min(label, key=lambda cell: gap[b, cell[1], cell[0], j])
            assert tuple(anywhere.dense_xy[b, j]) == most and anywhere.dense_score[b, j] == cosine(b, j, *most)
            own = [cell for cell in label if label[cell] == j]
            if own:
                best = min(own, key=lambda cell: gap[b, cell[1], cell[0], j])
                assert tuple(found.xy[b, j]) == tuple(found.dense_xy[b, j]) == best
                assert found.score[b, j] == found.dense_score[b, j] == cosine(b, j, *best)
            else:
                assert np.isnan(found.xy[b, j]).all() and np.isnan(found.score[b, j])
                assert tuple(found.dense_xy[b, j]) == most and found.dense_score[b, j] == cosine(b, j, *most)


@given(seed=st.integers(0, 2**16), maps=st.sampled_from([1, 4]))
def test_a_prior_moves_matches_but_not_their_clusters_and_scores(seed: int, maps: int) -> None:
    descriptors, inside, centroids = scene(seed)
    prior = torch.randn(3, maps, 5, 5, generator=torch.Generator().manual_seed(seed))
    found = dense(descriptors, inside, centroids, refine=False, prior=prior, anywhere=True).found()
    label = np.where(inside, clusters(descriptors, centroids), -1)
    cosine = np.einsum("bdyx,kd->bkyx", descriptors, centroids / np.linalg.norm(centroids, axis=1, keepdims=True))
    for b, j in np.ndindex(3, 4):
        total = cosine[b, j] + prior[b, j % maps].numpy()
        for xy, score, allowed in (
            (found.dense_xy, found.dense_score, inside[b].numpy()),
            (found.xy, found.score, label[b] == j),
        ):
            assert np.isfinite(score[b, j]) == allowed.any() or score is found.dense_score
            if allowed.any():
                y, x = np.unravel_index(np.where(allowed, total, -np.inf).argmax(), (5, 5))
                assert tuple(xy[b, j]) == (x, y) and score[b, j] == pytest.approx(cosine[b, j, y, x], abs=1e-5)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for more in ({}, {"prior": prior, "anywhere": True}):
        whole = dense(*scene(3), **more)
        monkeypatch.setattr(match, "CHUNK", 1)
        for name, value in vars(dense(*scene(3), **more)).items():
            np.testing.assert_allclose(value, getattr(whole, name), atol=1e-6)
        monkeypatch.undo()


def test_image_without_any_cell_inside() -> None:
    descriptors, inside, centroids = scene(4)
    inside[1] = False
    for anywhere in (False, True):
        found = dense(descriptors, inside, centroids, anywhere=anywhere).found()
        assert np.isnan(found.xy[1]).all() and np.isnan(found.score[1]).all()
        assert np.isfinite(found.dense_xy).all() and np.isfinite(found.dense_score).all()


def test_no_image() -> None:
    descriptors, inside, centroids = scene(5)
    found = dense(descriptors[:0], inside[:0], centroids).found()
    assert found.xy.shape == found.dense_xy.shape == (0, 4, 2)


@given(x=st.floats(2, 13), y=st.floats(2, 13))
def test_refine_reaches_between_cells(x: float, y: float) -> None:
    cy, cx = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    descriptors = F.normalize(torch.stack([torch.full_like(cx, 8.0), cx - x, cy - y])[None], dim=1)
    found = dense(descriptors, torch.ones(1, 16, 16, dtype=torch.bool), np.eye(3, dtype=np.float32)[:1]).found()
    np.testing.assert_allclose(found.xy[0, 0], [x, y], atol=0.02)


# --- exemplars of detections ---


@pytest.mark.parametrize("seed", range(4))
def test_exemplars_equal_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(0, 4, 25))
    x = rng.normal(size=(25, 3)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    xy = rng.uniform(0, 9, (25, 2)).astype(np.float32)
    centroids = (rng.normal(size=(6, 3)) * rng.uniform(0.1, 1, (6, 1))).astype(np.float32)
    gap = ((x[:, None] - centroids) ** 2).sum(2)
    found, score = exemplars_of(Points(image, xy, np.ones(25, np.float32), x), centroids, 5)
    assert found.shape == (5, 6, 2) and score.shape == (5, 6)
    for i in range(5):
        for k in range(6):
            own = [p for p in range(25) if image[p] == i and gap[p].argmin() == k]
            if own:
                best = min(own, key=lambda p: gap[p, k])
                np.testing.assert_array_equal(found[i, k], xy[best])
                assert score[i, k] == pytest.approx(x[best] @ centroids[k] / np.linalg.norm(centroids[k]), abs=1e-6)
            else:
                assert np.isnan(found[i, k]).all() and np.isnan(score[i, k])
    assert 5 < np.isfinite(score).sum() < 24


def test_exemplars_of_nothing() -> None:
    empty = Points(np.empty(0, np.int64), *(np.empty(shape, np.float32) for shape in ((0, 2), (0,), (0, 3))))
    found, score = exemplars_of(empty, np.eye(3, dtype=np.float32), 2)
    assert found.shape == (2, 3, 2) and np.isnan(found).all() and np.isnan(score).all()
