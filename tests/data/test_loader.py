"""The loader: the same clips in the same order, whoever reads them and wherever it begins."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidwm.data.clip import ClipBatch
from vidwm.data.datasets import open_dataset
from vidwm.data.loader import Loader, Order
from vidwm.data.sampler import ClipSource, epoch_order
from vidwm.errors import UserError

CPU = torch.device("cpu")
Recorded = tuple[Path, list[np.ndarray], list[np.ndarray]]


def told(numbers: Sequence[int], step: int) -> torch.Tensor:
    return torch.tensor([step, *numbers])


def refuse(numbers: Sequence[int], step: int) -> torch.Tensor:
    if step == 2:
        raise UserError("episode_7 is damaged; remove it.")
    return told(numbers, step)


def die(numbers: Sequence[int], step: int) -> None:
    if step == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def interrupts(numbers: Sequence[int], step: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def clips(source: ClipSource, numbers: Sequence[int], step: int) -> ClipBatch:
    return source.batch(numbers)


def loader(read: Callable[..., Any], workers: int, steps: int = 9, **options: Any) -> Loader[Any]:
    order = Order(num_windows=10, batch_size=4, seed=3)
    return Loader(read, order, steps=steps, device=CPU, num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_step_gets_its_own_clips_from_wherever_it_begins(workers: int) -> None:
    straight = loader(told, workers)
    for step in (0, 1, 2, 3, 6, 7, 5, 8):  # a resumed run begins anywhere
        assert straight[step].tolist() == [step, *epoch_order(10, 3, step, 4)]
    assert straight[12].tolist() == [12, *epoch_order(10, 3, 12, 4)]  # past the planned end


def test_ranks_share_the_clips_of_a_step() -> None:
    whole = Order(num_windows=10, batch_size=6, seed=1)
    ranks = [
        Order(num_windows=10, batch_size=6, seed=1, rank=rank, world_size=3) for rank in range(3)
    ]
    for step in range(7):
        parts = [order.numbers(step) for order in ranks]
        assert [len(part) for part in parts] == [2, 2, 2]
        assert sorted(parts[0] + parts[1] + parts[2]) == sorted(whole.numbers(step))
    with pytest.raises(UserError, match="batch_size must be a multiple of the 4 processes"):
        Order(num_windows=10, batch_size=6, seed=1, world_size=4)


def test_workers_draw_nothing_from_the_generators_of_the_run() -> None:
    before = torch.get_rng_state()
    loader(told, 1)[0]
    assert torch.get_rng_state().equal(before)


def test_a_mistake_in_a_worker_is_the_same_sentence() -> None:
    for workers in (0, 2):
        found = loader(refuse, workers)
        assert found[1].tolist()[0] == 1
        with pytest.raises(UserError) as caught:
            found[2]
        assert str(caught.value) == "episode_7 is damaged; remove it."


def test_a_killed_worker_is_one_sentence() -> None:
    found = loader(die, 1)
    with pytest.raises(UserError, match=r"was killed, .*go on with --resume and fewer --num_work"):
        _ = found[0], found[1]


def test_an_interrupt_is_left_to_the_parent() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell has none
    try:
        assert loader(interrupts, 1)[0] and not loader(interrupts, 0)[0]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("method", "workers", "cache_bytes"), [("fork", 2, 10**6), ("fork", 2, 0), ("spawn", 1, 0)]
)
def test_clips_of_videos_by_forked_and_spawned_workers(
    lerobot: Recorded, method: str, workers: int, cache_bytes: int
) -> None:
    source = ClipSource(
        open_dataset(lerobot[0]),
        clip_frames=3,
        frame_skip=2,
        episodes=[0, 1, 2, 3, 4],
        size=(16, 24),
        cache_bytes=cache_bytes,
    )
    order = Order(num_windows=len(source.windows), batch_size=4, seed=0)
    alone = [source.batch(order.numbers(step)) for step in range(1, 5)]  # the parent decodes, too
    found = Loader(
        partial(clips, source),
        order,
        steps=5,
        device=CPU,
        num_workers=workers,
        start_method=method,
    )
    for step, batch in enumerate(alone, start=1):
        read = found[step]
        assert read.frames.equal(batch.frames) and read.actions.equal(batch.actions)
        assert read.keys.equal(batch.keys)
