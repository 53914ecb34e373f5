"""Fill the folder of a cache: decode and resize every frame once, and tokenise it where asked to,
in each of its variants.

Processes share the work by whole files (`cache_folder`), machines by `shard`: the i-th of n takes
every n-th file. A file that is there is never written again, so a run that was killed goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from vidwm.data.cache_folder import Contents, begin, missing_files, put, shard_path
from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.data.sampler import resize
from vidwm.data.variants import variant_of
from vidwm.errors import UserError

FRAMES_PER_CALL = 64

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class CacheWork:
    """Everything a file of a cache is made from; it goes along to worker processes.

    encode: frames (M, 3, H, W) float in [0, 1] -> tokens (M, N); None for a cache of frames.
    """

    dataset: EpisodeDataset
    contents: Contents
    folder: Path
    encode: Encode | None = None

    def write(self, number: int) -> int:
        """Write the file of that number; returns how many episodes it holds."""
        episodes = self.contents.files[number]
        path = shard_path(self.folder, number)
        tensors, tasks = self._rows(episodes)
        about = {"vidwm": json.dumps({"key": self.contents.key, "tasks": tasks})}
        put(path, lambda partial: save_file(tensors, partial, about))
        return len(episodes)

    def _rows(self, episodes: range) -> tuple[dict[str, Tensor], list[str]]:
        """What these episodes hold, and the task of each."""
        contents = self.contents
        rows = sum(contents.lengths[i] for i in episodes)
        actions = torch.empty(rows, len(contents.action_names))
        if self.encode is None:
            empty = torch.empty(rows, 3, *contents.size, dtype=torch.uint8)
        else:
            empty = torch.empty(rows, contents.tokens_per_frame, dtype=torch.int32)
        cached = {name: torch.empty_like(empty) for name in contents.names}
        first, tasks = 0, []
        for index in episodes:
            episode = self._episode(index)
            frames = resize(torch.from_numpy(episode.frames), contents.size)
            place = slice(first, first + len(frames))
            for variant, tensor in enumerate(cached.values()):
                seen = variant_of(frames, contents.vary, self._named(index), variant)
                tensor[place] = seen if self.encode is None else self._tokens(seen)
            actions[place] = torch.from_numpy(episode.actions)
            tasks.append(episode.task)
            first = place.stop
        return cached | {"actions": actions}, tasks

    def _named(self, index: int) -> str:
        """What draws of an episode's variants depend on: the other camera has others."""
        return f"{self.contents.camera}:{self.contents.episode_ids[index]}"

    def _episode(self, index: int) -> Episode:
        """An episode; UserError if it is not of the length that was announced."""
        episode = self.dataset.episode(index)
        found = episode.actions.shape
        expected = (self.contents.lengths[index], len(self.contents.action_names))
        if found != expected:
            raise UserError(
                f"{self.dataset.path}: episode {episode.id} has actions of shape {found}, expected "
                f"{expected}; see `vidwm data check`."
            )
        return episode

    @torch.no_grad()
    def _tokens(self, frames: Tensor) -> Tensor:
        assert self.encode is not None
        parts = frames.split(FRAMES_PER_CALL)
        return torch.cat([self.encode(part.float() / 255).cpu() for part in parts])


def write_cache(work: CacheWork, *, workers: int = 0, shard: tuple[int, int] = (1, 1)) -> int:
    """Write the files of this shard that are missing, `shard` i of n counted from 1.

    In `workers` processes, or in this one if 0. Returns how many files of the shard there are.
    UserError when the folder is of another cache, an episode is damaged or the disk is full.
    """
    begin(work.folder, work.contents)
    files = work.contents.files
    numbers = range(shard[0] - 1, len(files), shard[1])
    missing = missing_files(work.folder, numbers)
    total = sum(len(files[number]) for number in numbers)
    done = total - sum(len(files[number]) for number in missing)
    with tqdm(
        total=total, initial=done, desc="cache", unit="episode", leave=False, disable=None
    ) as bar:
        for count in _written(work, missing, min(workers, len(missing))):
            bar.update(count)
    return len(numbers)


def _written(work: CacheWork, numbers: list[int], workers: int) -> Iterator[int]:
    """Write these files, in any order; yields the number of episodes of each that is there."""
    if workers == 0:
        yield from map(work.write, numbers)
        return
    # A forked child inherits locks that threads of torch or of a video decoder may hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (work,)) as pool:
        try:
            for future in as_completed([pool.submit(_write, number) for number in numbers]):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "A worker process of the cache was killed, most often for want of memory; run the "
                "same command again with fewer --workers."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # what is being written is finished first


_work: CacheWork | None = None  # of a worker process


def _start(work: CacheWork) -> None:
    """In a worker process: know the work, end with the parent, and compute the same everywhere."""
    global _work
    _work = work
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(number: int) -> int:
    assert _work is not None
    return _work.write(number)
