"""What the steps of a run read, ahead of time by worker processes and in pinned memory for a GPU.

A step's clips depend on (seed, step) alone, so the number of workers changes nothing but the speed,
and the position of a loader is the number of a step. Of several ranks each reads every
`world_size`-th clip of a step: together they read the clips that one would.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from vidwm.data.order import Share, clip_order
from vidwm.errors import UserError

AHEAD = 2  # steps each worker reads ahead

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which windows the steps of a run see; of several ranks, what one of them does.

    `shares` are those of the parts of a mixture, () where every window counts alike.

    UserError when the clips of a step cannot be shared out evenly.
    """

    num_windows: int
    batch_size: int
    seed: int
    shares: tuple[Share, ...] = ()
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise UserError(
                f"batch_size must be a multiple of the {self.world_size} processes that share it, "
                f"got {self.batch_size}."
            )

    def numbers(self, step: int) -> list[int]:
        """Window numbers of a step (from 0)."""
        every = clip_order(self.num_windows, self.shares, self.seed, step, self.batch_size)
        return every[self.rank :: self.world_size]


@dataclass(frozen=True)
class _Steps:
    """The steps from `start` on, as torch's loader asks for them: number and window numbers."""

    order: Order
    start: int
    stop: int

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((step, self.order.numbers(step)) for step in range(self.start, self.stop))


class _Reads(Dataset[Any], Generic[Read]):
    """What each step reads; a user's mistake is returned, so that it is raised without a trace."""

    def __init__(self, read: Callable[[Sequence[int], int], Read]) -> None:
        self.read = read

    def __getitem__(self, step: tuple[int, list[int]]) -> Read | UserError:
        number, windows = step
        try:
            return self.read(windows, number)
        except UserError as error:
            return error


class Loader(Generic[Read]):
    """read(window numbers, step) of the steps of a run, each asked for by its number.

    Steps that are asked for one after the other are read ahead, by `num_workers` processes; with 0
    each is read when it is asked for. `read` goes to the workers, so it holds nothing of a GPU.
    `start_method` is multiprocessing's (None: what is usual on the system). UserError as `read` has
    it, and when a worker is killed.
    """

    def __init__(
        self,
        read: Callable[[Sequence[int], int], Read],
        order: Order,
        *,
        steps: int,
        device: torch.device,
        num_workers: int,
        start_method: str | None = None,
    ) -> None:
        self._read, self._order, self._stop, self._device = read, order, steps, device
        self._num_workers, self._start_method = num_workers, start_method
        self._ahead: Iterator[Read | UserError] = iter(())
        self._next = -1

    def __getitem__(self, step: int) -> Read:
        if self._num_workers == 0:
            return self._read(self._order.numbers(step), step)
        if step != self._next:
            self._ahead = self._from(step)
        self._next = step + 1
        found = self._take()
        if isinstance(found, UserError):
            raise found
        return found

    def _from(self, step: int) -> Iterator[Read | UserError]:
        loader = DataLoader(
            _Reads(self._read),
            sampler=_Steps(self._order, step, max(self._stop, step + 1)),
            batch_size=None,
            num_workers=self._num_workers,
            prefetch_factor=AHEAD,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_parent,
            multiprocessing_context=self._start_method,
            generator=torch.Generator(),  # it draws a seed, which must not be the run's
        )
        return iter(loader)

    def _take(self) -> Read | UserError:
        try:
            return next(self._ahead)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"A worker process that reads clips was killed, most often for want of memory "
                f"({error}); go on with --resume and fewer --num_workers."
            ) from None


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it finishes its step, and needs the clips
