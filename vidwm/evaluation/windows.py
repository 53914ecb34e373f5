"""Which held-out windows are measured, and which one lends its actions to which other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from vidwm.data.windows import Window

PARTNER_SEED = 0


def spread_windows(windows: Sequence[Window], per_episode: int) -> list[int]:
    """Numbers of up to `per_episode` windows of each episode, evenly spaced over its starts.

    windows come episode by episode, as `windows_of` lists them. The starts of an episode are cut
    into equal stretches and the middle of each is taken, so no choice depends on chance.
    """
    chosen = []
    for _, group in groupby(range(len(windows)), key=lambda i: windows[i].episode):
        numbers = list(group)
        count = min(per_episode, len(numbers))
        chosen += [numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)]
    return chosen


def partners(episodes: Sequence[int]) -> list[int]:
    """For each window (of episode `episodes[i]`) another one: a permutation without fixed points.

    Episodes are put in a random but fixed order and the windows moved on by the size of the largest
    episode: as long as none holds more than half of all windows, each partner is of another
    episode. ValueError below two windows.
    """
    if len(episodes) < 2:
        raise ValueError(f"shuffling needs at least 2 windows, got {len(episodes)}")
    numbers, sizes = np.unique(np.asarray(episodes), return_counts=True)
    shuffled = np.random.Generator(np.random.PCG64(PARTNER_SEED)).permutation(numbers)
    place = {int(number): at for at, number in enumerate(shuffled)}
    order = sorted(range(len(episodes)), key=lambda i: place[episodes[i]])
    shift = min(int(sizes.max()), len(order) // 2)
    partner = [0] * len(order)
    for at, window in enumerate(order):
        partner[window] = order[(at + shift) % len(order)]
    return partner
