"""A dataset whose action rows are what a model takes them for (`ActionSemantics`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vidwm.data.action_semantics import ActionSemantics, Form
from vidwm.data.clip import Episode, EpisodeDataset, check_span
from vidwm.data.facts import checked_states, states_of
from vidwm.data.joined import Joined
from vidwm.errors import UserError


class Meant:
    """An `EpisodeDataset` with the episodes of `recorded` and other action rows, (T, A').

    Row t is what is done from frame t to the frame `frame_skip` later. UserError when states are
    asked for of recordings that have none.
    """

    def __init__(
        self, recorded: EpisodeDataset, semantics: ActionSemantics, frame_skip: int
    ) -> None:
        self.recorded, self.semantics, self.frame_skip = recorded, semantics, frame_skip
        self.path, self.format, self.fps = recorded.path, recorded.format, recorded.fps
        self.cameras, self.camera = recorded.cameras, recorded.camera
        self.episode_ids, self.lengths = recorded.episode_ids, recorded.lengths
        self._from_states = semantics.form.startswith("state")
        self._states: dict[int, np.ndarray] = {}
        self.base_names: Sequence[str] = recorded.action_names
        if self._from_states:
            found = states_of(recorded, [0])
            if found is None:
                raise UserError(
                    f"{recorded.path} holds no robot states, which action_form = {semantics.form} "
                    f"takes; leave action_form at recorded or delta."
                )
            self.base_names = found.names
        self.action_names = semantics.names(self.base_names, frame_skip)

    def __len__(self) -> int:
        return len(self.recorded)

    def episode(self, index: int) -> Episode:
        """Read one episode; UserError names the file when it is damaged."""
        episode = self.recorded.episode(index)
        return replace(episode, actions=self.rows(index, episode.actions))

    def span(self, index: int, start: int, stop: int) -> Episode:
        """Frames start .. stop - 1 of one episode, with their actions."""
        check_span(start, stop, self.lengths[index])
        if self._from_states:
            episode = self.recorded.span(index, start, stop)
            return replace(episode, actions=self.rows(index, episode.actions)[start:stop])
        before, after = self.semantics.margins(self.frame_skip)
        first, last = max(start - before, 0), min(stop + after, self.lengths[index])
        episode = self.recorded.span(index, first, last)
        meant = replace(episode, actions=self.rows(index, episode.actions))
        return meant.cut(start - first, stop - first)

    def rows(self, index: int, recorded: np.ndarray) -> np.ndarray:
        """What recorded actions (T, A) of an episode mean: (T, A')."""
        rows, before = recorded, recorded[0]
        if self._from_states:
            states = self._states_of(index)
            rows, before = np.concatenate([states[1:], states[-1:]]), states[0]
        return self.semantics.apply(rows, before, self.frame_skip)

    def _states_of(self, index: int) -> np.ndarray:
        if index not in self._states:
            self._states[index] = checked_states(self.recorded, index)
        return self._states[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "recorded":
            raise AttributeError(name)
        return getattr(self.recorded, name)


def with_meaning(
    dataset: EpisodeDataset, semantics: ActionSemantics, frame_skip: int = 1
) -> EpisodeDataset:
    """The dataset with the rows that are meant, in each of its parts."""
    if not isinstance(dataset, Joined):
        return Meant(dataset, semantics, frame_skip)
    return Joined(
        dataset.path,
        [
            replace(part, dataset=with_meaning(part.dataset, semantics, frame_skip))
            for part in dataset.parts
        ],
    )


def meant_rows(dataset: EpisodeDataset, index: int, recorded: np.ndarray) -> np.ndarray:
    """What recorded actions (T, A) of an episode mean in a dataset, without reading its frames."""
    if isinstance(dataset, Joined):
        part, number = dataset.place(index)
        return meant_rows(part.dataset, number, recorded)
    if isinstance(dataset, Meant):
        return dataset.rows(index, meant_rows(dataset.recorded, index, recorded))
    return recorded


def recorded_actions(dataset: EpisodeDataset, index: int) -> np.ndarray:
    """Actions (T, A) of an episode as its files have them; its frames are read for it."""
    if isinstance(dataset, Joined):
        part, number = dataset.place(index)
        return recorded_actions(part.dataset, number)
    return as_recorded(dataset).episode(index).actions


def base_of(dataset: EpisodeDataset, form: Form) -> EpisodeDataset:
    """The dataset with the rows that a form begins with, actions or states, one a frame."""
    rows_are: Form = "state" if form.startswith("state") else "recorded"
    return with_meaning(dataset, ActionSemantics(form=rows_are))


def as_recorded(dataset: EpisodeDataset) -> EpisodeDataset:
    """The dataset without any meaning given to its rows."""
    return as_recorded(dataset.recorded) if isinstance(dataset, Meant) else dataset
