"""Which windows a training step sees, where parts of the data have weights.

Clips come in blocks of `BLOCK`, in which every part has its share of places, to a thousandth and at
least one; where they lie in the block is drawn. A part's places go through its windows as an epoch
does: each once in a random order, then again in the next. So the mixture holds from the first
steps on, and what a step sees depends on (seed, step) alone, as without weights.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate

import numpy as np

from vidwm.data.clip import EpisodeDataset
from vidwm.data.sampler import epoch_order
from vidwm.data.windows import Window
from vidwm.errors import UserError

BLOCK = 1000


@dataclass(frozen=True)
class Share:
    """A part's name, how many windows it has, and its weight among the parts."""

    name: str
    windows: int
    weight: float


def shares_of(dataset: EpisodeDataset, windows: Sequence[Window]) -> tuple[Share, ...]:
    """Shares of the windows, which come in rising order of episodes; () without weights."""
    parts = getattr(dataset, "parts", ())
    if not any(part.weight for part in parts):
        return ()
    ends = [len(part.dataset) for part in parts]
    places = [bisect_left(windows, end, key=lambda w: w.episode) for end in accumulate(ends)]
    counts = np.diff([0, *places])
    return tuple(
        Share(part.name, int(n), part.weight) for part, n in zip(parts, counts, strict=True)
    )


def clip_order(
    num_windows: int, shares: tuple[Share, ...], seed: int, step: int, batch_size: int
) -> list[int]:
    """Window numbers of the batch of optimisation step `step` (from 0); by shares, if there are.

    UserError when a part with a share has no window.
    """
    if not shares:
        return epoch_order(num_windows, seed, step, batch_size)
    places = range(step * batch_size, (step + 1) * batch_size)
    return [_window_at(place, shares, seed) for place in places]


def _window_at(place: int, shares: tuple[Share, ...], seed: int) -> int:
    ends, firsts = _layout(shares)
    block, slot = divmod(place, BLOCK)
    slot = int(_permutation(BLOCK, seed, "block", block)[slot])
    part = bisect_right(ends, slot)
    begin = ends[part - 1] if part else 0
    draw = block * (ends[part] - begin) + slot - begin
    epoch, number = divmod(draw, shares[part].windows)
    order = _permutation(shares[part].windows, seed, f"part {part}", epoch)
    return firsts[part] + int(order[number])


@lru_cache(maxsize=4)
def _layout(shares: tuple[Share, ...]) -> tuple[list[int], list[int]]:
    """Where each part's places of a block end, and the number of its first window."""
    for share in shares:
        if not share.windows:
            raise UserError(
                f"{share.name} has weight {share.weight:g}, but no episode to train on that is "
                f"long enough for a clip; leave it out of the mixture."
            )
    places = quotas([share.weight for share in shares])
    return list(accumulate(places)), [0, *accumulate(share.windows for share in shares)][:-1]


def quotas(weights: Sequence[float]) -> list[int]:
    """Places of a block by weight: the largest remainders are rounded up, and none is left at 0."""
    exact = np.array(weights) / sum(weights) * BLOCK
    places = np.floor(exact).astype(int)
    places[np.argsort(places - exact, kind="stable")[: BLOCK - places.sum()]] += 1
    for empty in np.flatnonzero(places == 0):
        places[places.argmax()] -= 1
        places[empty] = 1
    return [int(count) for count in places]


@lru_cache(maxsize=64)
def _permutation(count: int, seed: int, what: str, number: int) -> np.ndarray:
    entropy = int.from_bytes(sha256(f"{seed}:{what}:{number}".encode()).digest(), "big")
    return np.random.Generator(np.random.PCG64(entropy)).permutation(count)
