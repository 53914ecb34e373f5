"""What can be wrong with an episode that opens: its frames, its actions, and how they fit.

A fault is something no recording should have, so an episode with one is better left out. What many
good sets have too (a dimension that never changes, actions at their bounds) is only noted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from vidwm.data.clip import Episode

ONE_COLOUR = 8  # range of values, of 255, within which a frame shows nothing
FROZEN_SECONDS, FROZEN_FRAMES = 1.0, 5  # frames stay the same, while actions change
REPEATED_SHARE = 0.3
SATURATED, TWO_VALUES = 0.2, 0.95  # share of values at either bound; from TWO_VALUES on, a switch


def episode_faults(episode: Episode, stated_length: int) -> Iterator[str]:
    """What is wrong with one episode, a phrase each."""
    frames, actions = episode.frames, episode.actions
    if len(frames) != stated_length:
        yield f"{len(frames)} frames, but the dataset states {stated_length}"
    flat = frames.reshape(len(frames), -1)
    blank = np.flatnonzero(flat.max(axis=1).astype(int) - flat.min(axis=1) < ONE_COLOUR)
    if len(blank):
        yield f"{spans(blank)} black or of one colour"
    if len(frames) < 2:
        return
    still = (flat[1:] == flat[:-1]).all(axis=1)
    # A robot at rest may well look the same; one whose commands change may not.
    stuck = still & (actions[1:] != actions[:-1]).any(axis=1)
    run = _longest_run(stuck)
    if run >= max(FROZEN_FRAMES, FROZEN_SECONDS * episode.fps):
        yield f"the picture freezes for {run} frames while the actions change"
    elif stuck.mean() >= REPEATED_SHARE:
        yield f"{stuck.mean():.0%} of the frames repeat the one before while the actions change"
    if len(frames) > FROZEN_FRAMES and (actions == actions[0]).all() and still.mean() < 0.5:
        yield "the actions never change while the picture does"


def digest(episode: Episode) -> bytes:
    """Equal for equal frames."""
    return hashlib.blake2b(episode.frames.tobytes(), digest_size=16).digest()


def spans(numbers: Sequence[int] | np.ndarray) -> str:
    """Rising frame numbers as "frames 3 to 5, 9"."""
    runs = np.split(np.asarray(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1)
    named = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    more = f" and {len(named) - 5} more spans" if len(named) > 5 else ""
    return f"{'frame' if len(numbers) == 1 else 'frames'} {', '.join(named[:5])}{more}"


class ActionTally:
    """Bounds of every action dimension over episodes, and how often the values are at them."""

    def __init__(self, num_dims: int) -> None:
        self.low, self.high = np.full(num_dims, np.inf), np.full(num_dims, -np.inf)
        self.at_low, self.at_high = np.zeros(num_dims, int), np.zeros(num_dims, int)
        self.rows = 0

    def add(self, actions: np.ndarray) -> None:
        """Count the rows (T, A) of one episode."""
        low, high = actions.min(axis=0), actions.max(axis=0)
        self.at_low[low < self.low] = 0
        self.at_high[high > self.high] = 0
        self.low, self.high = np.minimum(low, self.low), np.maximum(high, self.high)
        self.at_low += (actions == self.low).sum(axis=0)
        self.at_high += (actions == self.high).sum(axis=0)
        self.rows += len(actions)

    def notes(self, names: Sequence[str]) -> Iterator[str]:
        """Dimensions that never change, and those often at their bounds."""
        for dim, name in enumerate(names):
            low, high = self.low[dim], self.high[dim]
            share = (self.at_low[dim] + self.at_high[dim]) / max(self.rows, 1)
            if low == high:
                yield f"action {name} is always {low:g}"
            elif SATURATED <= share < TWO_VALUES:
                yield (
                    f"action {name} is at its bounds, {low:g} or {high:g}, in {share:.0%} of the "
                    f"frames: a switch, or cut off when it was recorded"
                )


def _longest_run(flags: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return int(max(edges[1::2] - edges[::2], default=0))
