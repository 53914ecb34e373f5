"""Synthetic caches to measure a loader on, and how much memory a process holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vidwm.data.cache_folder import INDEX, Contents, shard_path
from vidwm.data.cache_writer import CacheWork, write_cache
from vidwm.data.clip import Episode

LENGTHS = (50, 150)  # frames of an episode
TOKENS = 64


class Synthetic:
    """An `EpisodeDataset` of grey frames of 8x8."""

    path, format, fps = Path("synthetic"), "synthetic", 10.0
    cameras: tuple[str, ...] = ("grey",)
    camera = "grey"
    action_names = tuple(f"a{dim}" for dim in range(7))

    def __init__(self, episodes: int) -> None:
        lengths = np.random.default_rng(0).integers(*LENGTHS, episodes).tolist()
        self.lengths: Sequence[int] = lengths
        self.episode_ids: Sequence[str] = [f"episode_{i:06d}" for i in range(episodes)]

    def __len__(self) -> int:
        return len(self.lengths)

    def episode(self, index: int) -> Episode:
        T = self.lengths[index]
        frames = np.full((T, 3, 8, 8), 128, np.uint8)
        actions = np.zeros((T, len(self.action_names)), np.float32)
        return Episode(id=self.episode_ids[index], frames=frames, actions=actions, fps=self.fps)

    def span(self, index: int, start: int, stop: int) -> Episode:
        return self.episode(index).cut(start, stop)


def contents(dataset: Synthetic) -> Contents:
    """Of the cache of its tokens."""
    return Contents(
        kind="tokens",
        source=str(dataset.path),
        source_format=dataset.format,
        data="",
        camera=dataset.camera,
        fps=dataset.fps,
        action_names=dataset.action_names,
        episode_ids=tuple(dataset.episode_ids),
        lengths=tuple(dataset.lengths),
        all_episode_ids=tuple(dataset.episode_ids),
        size=(8, 8),
        tokens_per_frame=TOKENS,
    )


def made_up(folder: Path, episodes: int) -> Contents:
    """The index of a cache, with files that hold nothing."""
    found = contents(Synthetic(episodes))
    (folder / INDEX).write_text(json.dumps(dataclasses.asdict(found)), encoding="utf-8")
    for number in range(len(found.files)):
        shard_path(folder, number).touch()
    return found


def grow_cache(folder: Path, episodes: int) -> None:
    """Write a whole cache."""
    dataset = Synthetic(episodes)
    encode = lambda frames: torch.zeros(len(frames), TOKENS)  # noqa: E731
    write_cache(
        CacheWork(dataset=dataset, contents=contents(dataset), folder=folder, encode=encode)
    )


def grown_mb(when: str, start: dict[str, int]) -> float:
    """Memory beyond the `start`: "now" without mapped files, or at its "peak" with them."""
    here, before = {"now": ("RssAnon:",) * 2, "peak": ("VmHWM:", "VmRSS:")}[when]
    return (memory_now()[here] - start[before]) / 1024


def memory_now() -> dict[str, int]:
    """What Linux says of this process's memory, in KB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    words = [line.split() for line in lines if line.endswith(" kB")]
    return {word[0]: int(word[1]) for word in words}
