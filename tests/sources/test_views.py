"""Batches through a model, and reading ahead."""

import threading
import time

import numpy as np
import pytest
import torch

from uld import sources
from uld.base import ranks
from uld.base.errors import ArtifactError, ULDError
from uld.geometry.warps import Warp
from uld.models.base import Maps
from uld.models.encoder import Encoder
from uld.sources.pixel_views import PixelViews
from uld.sources.stored_views import StoredViews
from uld.sources.views import Ahead, Batch


def test_what_a_model_says_of_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process says it all; of several, each says its share, and all get the whole of it."""
    model = Encoder(16, 8, [4], 3, 4, 2)
    images = torch.rand(4, 3, 16, 16)
    inside = torch.ones(4, 8, 8, dtype=torch.bool)
    batch = Batch(np.arange(4), images, Warp.identity(4, 16), np.zeros(4, bool), inside)
    maps, want = batch.through(model), model(images)
    assert torch.equal(maps.looks, want.looks) and torch.equal(maps.heat, want.heat) and maps.code is None
    asked: list[tuple[int, int]] = []

    def whole(part: torch.Tensor, count: int) -> torch.Tensor:
        asked.append((len(part), count))
        return part.repeat_interleave(2, 0)

    monkeypatch.setattr(ranks, "whole", whole)
    shared = Batch(batch.rows, images[:2], batch.warp, batch.flipped, inside).through(model)
    assert isinstance(shared, Maps) and len(shared.looks) == len(shared.heat) == 4
    assert asked == [(2, 4), (2, 4)]


# --- reading ahead ---


def slow(number: int) -> tuple[int, float]:
    """Later numbers are sooner ready."""
    time.sleep(0.002 * (number % 3 == 0))
    return number, float(np.random.default_rng(number).random())


@pytest.mark.parametrize("workers", ["0", "1", "2", "5"])
@pytest.mark.parametrize("first", [0, 1, 7, 11])
def test_reading_ahead_changes_nothing(monkeypatch: pytest.MonkeyPatch, workers: str, first: int) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)
    asked: list[int] = []

    def read(number: int) -> tuple[int, float]:
        asked.append(number)
        return slow(number)

    batches = Ahead(read, 12)
    assert [batches(number) for number in range(first, 12)] == [slow(number) for number in range(first, 12)]
    assert sorted(asked) == list(range(first, 12))  # each once, and none beyond the end


def test_the_next_ones_are_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULD_WORKERS", "2")
    begun = {number: threading.Event() for number in range(9)}
    main = threading.get_ident()
    threads = set()

    def read(number: int) -> int:
        threads.add(threading.get_ident())
        begun[number].set()
        return number

    batches = Ahead(read, 9)
    assert batches(3) == 3
    assert begun[4].wait(5) and begun[5].wait(5)
    assert not begun[6].is_set() and not begun[2].is_set()
    assert main not in threads


@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_an_error_is_raised_where_it_belongs(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("ULD_WORKERS", workers)

    def read(number: int) -> int:
        if number == 2:
            raise ULDError("no two views")
        return number

    batches = Ahead(read, 5)
    assert [batches(0), batches(1)] == [0, 1]
    with pytest.raises(ULDError, match="no two views"):
        batches(2)
    assert batches(3) == 3


# --- the table ---


def test_the_table_of_what_models_read() -> None:
    """Literal, so that dependencies can be read off the code; a line for each folder below artifacts/."""
    assert set(sources.VIEWS) == {"features", "roi", "drawn"}
    for reads, kind in (("roi/crops", PixelViews), ("features/any", StoredViews)):
        module = sources.of(reads)
        assert sources.VIEWS[reads.split("/")[0]] == f"{module.__name__}:{kind.__name__}"
        assert all(callable(getattr(module, name)) for name in ("open_views", "pack", "reader"))
    with pytest.raises(ArtifactError, match=r"reads: 'pixels' is neither features/<line of stores> nor roi/crops"):
        sources.of("pixels")
