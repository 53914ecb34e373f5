"""Several datasets as one: the parts of a mixture, or the cameras of the same recordings.

Parts share one action space and keep their own split: who is held out of a part is decided among
its own episodes. Weights say how often clips of each part are drawn (`order`); without them every
window counts alike.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.data.kept_parts import KeptPart
from vidwm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataset, the ids its episodes have in the whole, and its weight (None: none has one).

    `recordings` names what each episode was recorded from; views of one recording share a name.
    `kept` is what a model keeps of the part of a mixture.
    """

    name: str
    dataset: EpisodeDataset
    episode_ids: Sequence[str]
    recordings: Sequence[str]
    weight: float | None = None
    kept: KeptPart | None = None


class Joined:
    """An `EpisodeDataset` of the episodes of all parts, in the order of the parts.

    `firsts` are the numbers of each part's first episode. UserError where action dimensions differ.
    """

    def __init__(self, path: Path, parts: Sequence[Part]) -> None:
        self.path, self.parts = path, tuple(parts)
        first = parts[0]
        for part in parts[1:]:
            here, there = len(first.dataset.action_names), len(part.dataset.action_names)
            if here != there:
                raise UserError(
                    f"{path}: actions of {first.name} have {here} dimensions, those of {part.name} "
                    f"{there}; one model has one action space, so leave one of the two out."
                )
        datasets = [part.dataset for part in parts]
        formats = dict.fromkeys(dataset.format for dataset in datasets)
        self.format, self.fps = " and ".join(formats), datasets[0].fps
        self.cameras = tuple(dict.fromkeys(name for d in datasets for name in d.cameras))
        self.camera = ",".join(dict.fromkeys(dataset.camera for dataset in datasets))
        self.action_names = datasets[0].action_names
        self.episode_ids: Sequence[str] = [name for part in parts for name in part.episode_ids]
        self.recordings: Sequence[str] = [name for part in parts for name in part.recordings]
        self.lengths: Sequence[int] = [n for dataset in datasets for n in dataset.lengths]
        self.firsts = [0, *accumulate(len(dataset) for dataset in datasets)][:-1]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_mixture(self) -> bool:
        """Whether its parts have weights; those of several cameras have none."""
        return self.parts[0].weight is not None

    def place(self, index: int) -> tuple[Part, int]:
        """The part an episode belongs to, and its number there."""
        part = bisect_right(self.firsts, index) - 1
        return self.parts[part], index - self.firsts[part]

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        part, number = self.place(index)
        return replace(part.dataset.episode(number), id=self.episode_ids[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of one episode, with their actions."""
        part, number = self.place(index)
        return replace(part.dataset.span(number, start, stop), id=self.episode_ids[index])


def camera_read(dataset: EpisodeDataset, named: str | None) -> str | None:
    """What opens the same camera again, or the same views; `named` where parts have others."""
    if isinstance(dataset, Joined) and dataset.is_mixture:
        cameras = {part.dataset.camera for part in dataset.parts}
        return named if len(cameras) > 1 else dataset.camera
    return dataset.camera


def parts_kept(dataset: EpisodeDataset, before: Sequence[KeptPart] = ()) -> tuple[KeptPart, ...]:
    """What is kept of the parts of a mixture, beside those of `before` that it does not name."""
    parts = dataset.parts if isinstance(dataset, Joined) else ()
    kept = [*before, *(part.kept for part in parts if part.kept is not None)]
    return tuple({(part.name, part.dataset): part for part in kept}.values())


def recordings_of(dataset: EpisodeDataset) -> Sequence[str]:
    """What each episode was recorded from: equal for two views of the same recording."""
    found: Sequence[str] = getattr(dataset, "recordings", dataset.episode_ids)
    return found


def first_episodes(dataset: EpisodeDataset) -> Sequence[int]:
    """The number of an episode of each part and of each of its views; [0] of a dataset of one."""
    if not isinstance(dataset, Joined):
        return [0]
    return [
        first + number
        for first, part in zip(dataset.firsts, dataset.parts, strict=True)
        for number in first_episodes(part.dataset)
    ]
