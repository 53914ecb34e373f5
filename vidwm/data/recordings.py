"""open_recordings: what the options name, be it a dataset, several cameras of it, or a mixture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vidwm.data.cameras import open_cameras
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined
from vidwm.data.mixture import mixture_lines, open_mixture
from vidwm.data.mixture_file import episodes_of_part, is_mixture, read_mixture
from vidwm.data.selection import open_selected, read_episode_list
from vidwm.data_config import DataOptions, PartOptions, RowOptions
from vidwm.errors import UserError


def open_recordings(options: DataOptions) -> EpisodeDataset:
    """The episodes that the options leave; says which are skipped, and what a mixture is made of.

    UserError when a listed episode does not exist, one is damaged and may not be skipped, none is
    left, or parts of a mixture do not fit together.
    """
    listed = read_episode_list(options.episodes) if options.episodes else None
    states = options.keeps_states or (isinstance(options, RowOptions) and options.takes_states)
    if not is_mixture(options.data):
        return _open_views(options, listed, states)
    opened: list[str] = []
    names = tuple(read_mixture(options))

    def open_part(name: str, part: PartOptions) -> EpisodeDataset:
        own = None if listed is None else episodes_of_part(name, names, listed, options.data)
        opened.extend(f"{name}/{episode}" for episode in own or ())
        settings = replace(options, data=part.data, camera=part.camera, split=part.split)
        return _open_views(settings, own, states or part.takes_states)

    mixture = open_mixture(options, open_part)
    if strangers := sorted(set(listed or ()) - set(opened)):
        raise UserError(
            f"{options.episodes} lists {len(strangers)} episodes of no part of the mixture "
            f"{options.data}, such as {strangers[0]!r}; ids begin with a part's name and a slash."
        )
    print("\n".join(mixture_lines(mixture)))
    return mixture


def check_beside(target: Path, options: DataOptions, dataset: EpisodeDataset) -> None:
    """UserError when a new folder would lie, by links too, inside of what it is made from."""
    named = [options.data]
    if is_mixture(options.data):
        named = [part.data for part in read_mixture(options).values()]
    real = Path(os.path.realpath(target))
    for folder in [*named, *_folders(dataset)]:
        if real.is_relative_to(os.path.realpath(folder)):
            raise UserError(f"{target} lies inside of {folder}; choose a folder beside it.")


def _folders(dataset: EpisodeDataset) -> list[Path]:
    """Where recordings lie, of every part; a manifest's folder holds its videos."""
    if not isinstance(dataset, Joined):
        return [dataset.path]
    return [folder for part in dataset.parts for folder in _folders(part.dataset)]


def _open_views(options: DataOptions, listed: Sequence[str] | None, states: bool) -> EpisodeDataset:
    def open_one(data: Path, camera: str | None) -> EpisodeDataset:
        settings = replace(options, data=data, camera=camera)
        return open_selected(settings, listed, states=states)

    return open_cameras(options.data, options.camera, open_one)
