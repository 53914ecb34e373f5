"""Look into some episodes of a set, the same ones every time, so that a large set takes seconds.

Episodes are taken in a random order that depends on the seed alone, until there are enough of them
or of their frames. A damaged episode is noted, and the rest is looked into all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.errors import UserError

MAX_FRAMES = 6000  # of a sample; a few seconds of decoding at 256x320


@dataclass
class Sample:
    """Numbers of the episodes chosen, and what was wrong with those that could not be read."""

    numbers: list[int]
    unreadable: dict[str, str] = field(default_factory=dict)

    def episodes(self, dataset: EpisodeDataset) -> Iterator[tuple[int, Episode]]:
        """(number, episode) of those that can be read; the others go to `unreadable`."""
        for number in tqdm(self.numbers, desc="look", unit="episode", leave=False, disable=None):
            try:
                episode = dataset.episode(number)
            except UserError as error:
                self.unreadable[dataset.episode_ids[number]] = str(error)
                continue
            yield number, episode


def choose_sample(lengths: Sequence[int], count: int, seed: int) -> Sample:
    """Up to `count` episodes, fewer where they are long, but at least one; in random order."""
    order = np.random.default_rng(seed).permutation(len(lengths))[:count]
    frames = np.cumsum([lengths[i] for i in order])
    kept = max(int(np.searchsorted(frames, MAX_FRAMES, side="right")), 1)
    return Sample([int(i) for i in order[:kept]])
