"""The places clips are cut from, as numbers 0, 1, 2, ...: counted, never listed.

A hundred thousand episodes have ten million of them, and a list would take longer to write and more
memory than all that is ever read of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from vidwm.errors import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """A clip's place: episode number and first frame, both counted from 0."""

    episode: int
    start: int


class Windows(Sequence[Window]):
    """Every start in some episodes, episode by episode; `counts` says how many each of them has.

    `episodes` are those that have one.
    """

    def __init__(self, episodes: Sequence[int], counts: Sequence[int]) -> None:
        numbers, sizes = np.asarray(episodes, dtype=np.int64), np.asarray(counts, dtype=np.int64)
        kept = sizes > 0
        self.episodes: list[int] = numbers[kept].tolist()
        self._ends = np.cumsum(sizes[kept])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, number: int) -> Window: ...

    @overload
    def __getitem__(self, number: slice) -> list[Window]: ...

    def __getitem__(self, number: int | slice) -> Window | list[Window]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        place = int(np.searchsorted(self._ends, number, side="right"))
        return Window(self.episodes[place], number - self._first(place))

    def of(self, episode: int) -> range:
        """The numbers of an episode's windows; ValueError if it has none."""
        place = self.episodes.index(episode)
        return range(self._first(place), int(self._ends[place]))

    def _first(self, place: int) -> int:
        return int(self._ends[place - 1]) if place else 0


def span_of(clip_frames: int, frame_skip: int) -> int:
    """Recorded frames from the first to the last of a clip."""
    return (clip_frames - 1) * frame_skip + 1


def any_fits(
    lengths: Sequence[int], episodes: Sequence[int], clip_frames: int, frame_skip: int
) -> bool:
    """Whether any of the given episodes is long enough for a clip."""
    return any(lengths[e] >= span_of(clip_frames, frame_skip) for e in episodes)


def windows_of(
    lengths: Sequence[int], episodes: Sequence[int], clip_frames: int, frame_skip: int
) -> Windows:
    """Every place a clip fits into the given episodes; those too short give none.

    UserError if no episode is long enough.
    """
    if clip_frames < 1 or frame_skip < 1:
        raise UserError(
            f"clip_frames and frame_skip must be 1 or more, got {clip_frames} and {frame_skip}."
        )
    span = span_of(clip_frames, frame_skip)
    windows = Windows(episodes, [lengths[e] - span + 1 for e in episodes])
    if not len(windows):
        longest = max((lengths[e] for e in episodes), default=0)
        raise UserError(
            f"None of the {len(episodes)} episodes is long enough: the longest has {longest} "
            f"frames, but {clip_frames} clip frames with frame skip {frame_skip} span {span}; "
            f"use fewer context frames, a shorter horizon or a smaller frame skip."
        )
    return windows
