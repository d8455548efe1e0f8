"""What is left to faiss's GPUs, with the CPU in their place."""

from typing import Any

import faiss
import numpy as np
import pytest
import torch

from uld.cluster import kmeans, search, spool


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of a GPU that faiss and torch see."""
    calls: list[str] = []

    def trainer(*args: Any, gpu: bool, **rest: Any) -> faiss.Kmeans:
        calls.extend(["train"] * gpu)
        return plain(*args, **rest)

    def index(cpu: faiss.Index) -> faiss.Index:
        calls.append("search")
        return cpu

    plain = faiss.Kmeans
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "Kmeans", trainer)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", index, raising=False)
    monkeypatch.setattr(search.runtime, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(search, "ONE_THREAD", 10_000)
    return calls


def fit(points: int = 3000, cap: int = 10**6) -> kmeans.Clusters:
    x = np.random.default_rng(0).normal(size=(points, 16)).astype(np.float32)
    return kmeans.fit(x, 4, np.random.default_rng(1), restarts=2, iterations=5, cap=cap)


def test_a_gpu_trains_and_searches(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PIECE", 1000)
    found = fit(cap=2000)
    assert asked == ["train", "search", "train", "search", "search"]  # an index serves all pieces
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    alone = fit(cap=2000)
    assert len(asked) == 5
    np.testing.assert_allclose(found.centroids, alone.centroids, atol=1e-5)
    np.testing.assert_array_equal(found.labels, alone.labels)


def test_not_for_little_work(asked: list[str]) -> None:
    fit(points=20)
    assert asked == []


def test_not_against_the_device_that_was_chosen(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.runtime, "device", lambda: torch.device("cpu"))
    fit()
    assert asked == []
