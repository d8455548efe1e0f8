"""Nearest points by faiss, exactly; in one thread, in several, or on its GPUs, as the work is worth."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cache
from math import prod
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from uld.base import runtime
from uld.cluster.spool import Table, pieces

# multiply-adds up to which one thread serves, and a GPU does not pay: with several threads, faiss takes 30
# times longer on busy cores
ONE_THREAD = 2 * 10**9


def neighbours(
    x: Table, others: NDArray[np.float32], k: int
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64]]]:
    """The k nearest of `others` (N, D), N at least k, to points (M, D); none is left out of the search.

    Yields:
        A piece of the points, squared L2 distances (m, k), rising, and numbers (m, k) in `others`.
    """
    work = prod(x.shape) * len(others)
    index = None
    if on_gpu(work):
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(others.shape[1]))
        index.add(others)
    for piece in pieces(len(x)):
        with threads(work):
            found = faiss.knn(x[piece], others, k) if index is None else index.search(x[piece], k)
        yield piece, *found


def on_gpu(work: int) -> bool:
    """Whether to give faiss's GPUs `work` multiply-adds: there are some (extra `gpu`) and `ULD_DEVICE` is one."""
    return work > ONE_THREAD and runtime.device().type == "cuda" and faiss.get_num_gpus() > 0


def threads(work: int) -> AbstractContextManager[Any]:
    """While it is open, faiss computes in as many threads as `work` multiply-adds are worth."""
    return _pools().limit(limits=worth(work))


def worth(work: int) -> int:
    """Threads for `work` multiply-adds."""
    return runtime.threads() if work > ONE_THREAD else 1


@cache
def _pools() -> ThreadpoolController:
    """The thread pools that faiss computes in; to look for them takes longer than to place an image's points."""
    return ThreadpoolController()
