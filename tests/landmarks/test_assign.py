"""Exemplar assignment against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from uld.landmarks import assign
from uld.landmarks.assign import dense, exemplars


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


@given(seed=st.integers(0, 2**16), k=st.integers(1, 30))
def test_dense_equals_naive_loop(seed: int, k: int) -> None:
    descriptors, inside, centroids = scene(seed, k)
    match = dense(descriptors, inside, centroids, refine=False)
    x = descriptors.numpy().transpose(0, 2, 3, 1)
    gap = ((x[..., None, :] - centroids) ** 2).sum(axis=-1)
    for b in range(3):
        roi = np.argwhere(inside[b].numpy())
        label = {(cx, cy): int(gap[b, cy, cx].argmin()) for cy, cx in roi}
        for j in range(k):
            own = [cell for cell in label if label[cell] == j]
            if own:
                cx, cy = min(own, key=lambda cell: gap[b, cell[1], cell[0], j])
                assert tuple(match.xy[b, j]) == (cx, cy)
                cosine = x[b, cy, cx] @ centroids[j] / np.linalg.norm(centroids[j])
                assert match.score[b, j] == pytest.approx(cosine, abs=1e-5)
                assert match.label[b, cy, cx] == j
            else:
                assert np.isnan(match.xy[b, j]).all() and np.isnan(match.score[b, j])
            cx, cy = min(label, key=lambda cell: gap[b, cell[1], cell[0], j])
            assert tuple(match.dense_xy[b, j]) == (cx, cy)
    assert (match.label[~inside.numpy()] == -1).all()


@given(seed=st.integers(0, 2**16), maps=st.sampled_from([1, 4]))
def test_a_prior_moves_matches_but_not_their_clusters_and_scores(seed: int, maps: int) -> None:
    descriptors, inside, centroids = scene(seed)
    prior = torch.randn(3, maps, 5, 5, generator=torch.Generator().manual_seed(seed))
    plain, match = (dense(descriptors, inside, centroids, False, some) for some in (None, prior))
    np.testing.assert_array_equal(match.label, plain.label)
    cosine = np.einsum("bdyx,kd->bkyx", descriptors, centroids / np.linalg.norm(centroids, axis=1, keepdims=True))
    for b, j in np.ndindex(3, 4):
        total = cosine[b, j] + prior[b, j % maps].numpy()
        for xy, score, allowed in (
            (match.dense_xy, match.dense_score, inside[b].numpy()),
            (match.xy, match.score, plain.label[b] == j),
        ):
            if allowed.any():
                y, x = np.unravel_index(np.where(allowed, total, -np.inf).argmax(), (5, 5))
                assert tuple(xy[b, j]) == (x, y) and score[b, j] == pytest.approx(cosine[b, j, y, x], abs=1e-5)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dense(*scene(3), refine=True)
    monkeypatch.setattr(assign, "CHUNK", 1)
    for name, value in vars(dense(*scene(3), refine=True)).items():
        np.testing.assert_allclose(value, getattr(whole, name), atol=1e-6)


def test_image_without_any_cell_inside() -> None:
    descriptors, inside, centroids = scene(4)
    inside[1] = False
    match = dense(descriptors, inside, centroids, refine=True)
    assert np.isnan(match.xy[1]).all() and np.isfinite(match.dense_xy).all() and np.isfinite(match.dense_score).all()


def test_no_image() -> None:
    descriptors, inside, centroids = scene(5)
    assert dense(descriptors[:0], inside[:0], centroids, refine=True).xy.shape == (0, 4, 2)


@given(x=st.floats(2, 13), y=st.floats(2, 13))
def test_refine_reaches_between_cells(x: float, y: float) -> None:
    cy, cx = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    descriptors = F.normalize(torch.stack([torch.full_like(cx, 8.0), cx - x, cy - y])[None], dim=1)
    match = dense(descriptors, torch.ones(1, 16, 16, dtype=torch.bool), np.eye(3, dtype=np.float32)[:1], refine=True)
    np.testing.assert_allclose(match.xy[0, 0], [x, y], atol=0.02)
