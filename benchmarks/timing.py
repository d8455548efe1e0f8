"""Timing shared by the benchmarks: interleaved runs, medians, and a ratio against a named baseline."""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from uld.base import runtime, stop

Ways = dict[str, Callable[[], Any]]


def measure(ways: Ways, repeats: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds and last result of each way; runs are interleaved, so that other load falls on all alike.

    Allocation and lazy loading are kept out by one untimed round where there is more than one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for number in range(repeats + (repeats > 1)):
        for name, way in ways.items():
            synchronise()
            start = time.perf_counter()
            results[name] = way()
            synchronise()
            if number or repeats == 1:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}, results


def synchronise() -> None:
    """Wait for the accelerator, whose calls return before their work is done."""
    if runtime.device().type == "cuda":
        torch.cuda.synchronize()


def report(topic: str, seconds: dict[str, float], work: float, unit: str, baseline: str) -> None:
    """Print time and rate of each way on `work` units of work, and how many times faster each is than the baseline."""
    for name, value in seconds.items():
        ratio = "" if name == baseline else f"   RATIO {seconds[baseline] / value:.2f} x against {baseline}"
        print(f"{topic}: {name}: {value:.4g} s, {work / value:.4g} {unit}/s{ratio}")


def same(topic: str, one: Any, other: Any, rtol: float = 0, atol: float = 0) -> None:
    """Stop unless two arrays agree (NaN equals NaN): the speed of a wrong result is not worth printing.

    Raises:
        AssertionError: they differ.
    """
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=rtol, atol=atol, err_msg=topic)


def run(main: Callable[[bool], None]) -> None:
    """Command line of a benchmark: `--small` for a size that only proves that it works."""
    parser = argparse.ArgumentParser(description="Print medians and ratios against a baseline.")
    parser.add_argument("--small", action="store_true", help="a tiny size that only proves that the benchmark works")
    small = parser.parse_args().small
    stop.run(lambda: main(small))
