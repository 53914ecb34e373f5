"""Seconds of a piece of work, with the GPU's part of it where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def best(work: Callable[[], object], times: int = 6) -> float:
    """Least seconds of some calls, the first of which does not count."""
    return min([timed(work) for _ in range(times)][1:])
