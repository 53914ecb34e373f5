"""Only some episodes of a dataset: those that are listed, and those that can be read.

A list comes from `vidwm data check --fix_report`, or is written by hand. Which episodes are held
out is decided among all there are, before any is left out: whoever is held out without a list is
with one, so that no model is measured on what another was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.data.datasets import open_dataset
from vidwm.data.facts import checked_states
from vidwm.data.joined import Joined
from vidwm.data.sampler import split_episodes
from vidwm.data_config import DataOptions
from vidwm.errors import UserError

LISTED = 20  # skipped episodes that are named on screen


class Selection:
    """An `EpisodeDataset` of some episodes of another one; all else it says is the other's.

    `all_episode_ids` are those of the dataset, with the ones that could not even be opened.
    """

    def __init__(
        self, dataset: EpisodeDataset, numbers: Sequence[int], all_episode_ids: Sequence[str]
    ) -> None:
        self.path, self.format, self.fps = dataset.path, dataset.format, dataset.fps
        self.cameras, self.camera = dataset.cameras, dataset.camera
        self.action_names = dataset.action_names
        self.episode_ids: Sequence[str] = [dataset.episode_ids[i] for i in numbers]
        self.lengths: Sequence[int] = [dataset.lengths[i] for i in numbers]
        self.all_episode_ids = all_episode_ids
        self._dataset, self._numbers = dataset, list(numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        return self._dataset.episode(self._numbers[index])

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of one episode, with their actions."""
        return self._dataset.span(self._numbers[index], start, stop)

    def states(self, index: int) -> np.ndarray:
        """Robot states (T, S) of one episode, where the dataset has `state_names`."""
        found: np.ndarray = cast(Any, self._dataset).states(self._numbers[index])
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)


def open_selected(
    options: DataOptions, listed: Sequence[str] | None = None, *, states: bool = False
) -> EpisodeDataset:
    """One dataset, one camera, with the listed episodes (None: all); says which are skipped.

    With `states` an episode whose robot states cannot be read is damaged as well.
    UserError when a listed episode does not exist, one is damaged and may not be skipped, or none
    is left.
    """
    damaged: dict[str, str] = {}
    dataset = open_dataset(
        options.data, camera=options.camera, split=options.split, damaged=damaged
    )
    everyone = [*dataset.episode_ids, *damaged]
    wanted = set(everyone if listed is None else listed)
    if absent := sorted(wanted - set(everyone)):
        raise UserError(
            f"{options.episodes} lists {len(absent)} episodes that {options.data} does not hold, "
            f"such as {absent[0]!r}; make the list anew with `vidwm data check`."
        )
    numbers = [i for i, name in enumerate(dataset.episode_ids) if name in wanted]
    bad = {name: why for name, why in damaged.items() if name in wanted}
    if options.on_bad_episode == "skip":
        bad |= _unreadable(dataset, numbers, states and bool(getattr(dataset, "state_names", ())))
    elif bad:
        raise UserError(
            f"{next(iter(bad.values()))} ({len(bad)} damaged in all; --on_bad_episode skip leaves "
            f"them out.)"
        )
    numbers = [i for i in numbers if dataset.episode_ids[i] not in bad]
    if bad:
        print("\n".join(_skip_lines(bad, len(wanted))))
    if not numbers:
        raise UserError(f"{options.data}: of {len(wanted)} episodes none is left that can be read.")
    if len(numbers) == len(everyone):
        return dataset
    drawn_from = getattr(dataset, "all_episode_ids", dataset.episode_ids)  # a cache holds fewer
    return Selection(dataset, numbers, [*drawn_from, *damaged])


def read_episode_list(file: Path) -> list[str]:
    """Episode ids from a JSON list, or from "episodes" of a JSON object; UserError otherwise."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"The episode list {file} is not readable JSON ({error}).") from error
    ids = content.get("episodes") if isinstance(content, dict) else content
    if not isinstance(ids, list) or not ids or not all(isinstance(name, str) for name in ids):
        raise UserError(
            f"The episode list {file} must be a JSON list of episode ids, or an object with such a "
            f"list as 'episodes'."
        )
    return ids


def split_dataset(
    dataset: EpisodeDataset, heldout: float, seed: int
) -> tuple[list[int], list[int]]:
    """Numbers of the episodes (train, held out), as `split_episodes` tells them apart.

    Each part of a mixture is split by itself, and the views of a recording lie on the same side.
    UserError when no episode to train on is left.
    """
    if isinstance(dataset, Joined):
        sides = [split_dataset(part.dataset, heldout, seed) for part in dataset.parts]
        train, out = (
            [first + i for first, side in zip(dataset.firsts, sides, strict=True) for i in side[k]]
            for k in (0, 1)
        )
        return train, out
    everyone = getattr(dataset, "all_episode_ids", dataset.episode_ids)
    _, out = split_episodes(everyone, heldout, seed)
    held = {everyone[i] for i in out}
    train = [i for i, name in enumerate(dataset.episode_ids) if name not in held]
    if not train:
        raise UserError(
            f"{dataset.path}: all {len(dataset)} episodes left are among the held-out ones of "
            f"{len(everyone)}; list more episodes, or hold out fewer."
        )
    return train, [i for i, name in enumerate(dataset.episode_ids) if name in held]


def _unreadable(dataset: EpisodeDataset, numbers: Sequence[int], states: bool) -> dict[str, str]:
    bad = {}
    for number in tqdm(numbers, desc="read", unit="episode", leave=False, disable=None):
        try:
            dataset.episode(number)
            if states:
                checked_states(dataset, number)
        except UserError as error:
            bad[dataset.episode_ids[number]] = str(error)
    return bad


def _skip_lines(bad: dict[str, str], total: int) -> list[str]:
    lines = [f"data: {len(bad)} of {total} episodes are damaged and skipped:"]
    lines += [f"  {name}: {why}" for name, why in list(bad.items())[:LISTED]]
    left = len(bad) - LISTED
    return lines + ([f"  and {left} more"] if left > 0 else [])
