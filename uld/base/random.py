"""Generators of random numbers: each stream follows from the seed and what it is for, and from nothing else."""

import zlib
from typing import TYPE_CHECKING

import numpy as np

from uld.base.errors import ParamsError

if TYPE_CHECKING:  # torch takes two seconds to import, and not every stage computes with it
    import torch


MOST = 2**63  # seeds are integers that every format of file can hold


def rng(seed: int, purpose: str, *stream: int) -> np.random.Generator:
    """NumPy generator of the stream (seed, purpose, *stream), independent of every other stream."""
    return np.random.default_rng(_seeds(seed, purpose, stream))


def torch_rng(seed: int, purpose: str, *stream: int) -> "torch.Generator":
    """CPU torch generator of the stream (seed, purpose, *stream)."""
    import torch

    words = _seeds(seed, purpose, stream).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


def _seeds(seed: int, purpose: str, stream: tuple[int, ...]) -> np.random.SeedSequence:
    if seed < 0:
        raise ParamsError(f"params.yaml: seed: must be 0 or more, not {seed}.")
    if seed >= MOST:
        raise ParamsError("params.yaml: seed: is too large: take one below 2^63.")
    # as spawn key: in the entropy itself, trailing zeros would not count and the streams () and (0,) be the same
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=stream)
