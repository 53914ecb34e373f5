"""The loader of a run: what its options say of order and worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from vidwm.config import TrainOptions
from vidwm.data.loader import Loader, Order
from vidwm.data.order import Share
from vidwm.device import pick_device

GPU_WORKERS = 4

Read = TypeVar("Read")


def run_loader(
    read: Callable[[Sequence[int], int], Read],
    num_windows: int,
    options: TrainOptions,
    *,
    shares: tuple[Share, ...] = (),
    mapped: bool = False,
) -> Loader[Read]:
    """Of read(window numbers, step); `mapped` where that takes no longer than sending it would.

    Unless the options say, a GPU gets workers, since it would wait; a CPU none, whose cores train.
    """
    device = pick_device(options.device)
    usual = min(GPU_WORKERS, os.cpu_count() or 1) if device.type == "cuda" and not mapped else 0
    return Loader(
        read,
        Order(
            num_windows=num_windows,
            batch_size=options.batch_size,
            seed=options.seed,
            shares=shares,
        ),
        steps=options.steps,
        device=device,
        num_workers=usual if options.num_workers is None else options.num_workers,
    )
