"""Caches of several datasets in one folder: the views of recordings, and the parts of a mixture.

Frames, which are read as the recordings are. A part with views is a folder of views itself:

    mixture.yaml             the mixture of the caches beside it; --data takes it
    part-0/cache.json ...    the first part, and so on
    part-1/views.json        a folder that --data takes as well: names of views (`cameras`)
    part-1/view-0/cache.json ...

Tokens, which pretraining finds by what they are of: a cache in <key>/ for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vidwm.config_loader import read_mapping
from vidwm.data.cache_folder import claim
from vidwm.data.cameras import VIEWS_INDEX, view_folder
from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined
from vidwm.data.meant import as_recorded
from vidwm.data.mixture_file import BESIDE
from vidwm.data.reading import read_any_json
from vidwm.data_config import PartOptions, RowOptions
from vidwm.errors import UserError
from vidwm.options import changed

MIXTURE = "mixture.yaml"


def caches_of_frames(
    dataset: EpisodeDataset, folder: Path
) -> Iterator[tuple[EpisodeDataset, Path]]:
    """The datasets that are cached one by one, as they were recorded, and the folder of each."""
    if not isinstance(dataset, Joined):
        yield as_recorded(dataset), folder
        return
    for number, part in enumerate(dataset.parts):
        yield from caches_of_frames(part.dataset, _own_folder(dataset, folder, number))


def check_holds_caches(folder: Path) -> None:
    """UserError when the folder of several caches is something else."""
    if folder.exists() and not (folder.is_dir() and all(map(Path.is_dir, folder.iterdir()))):
        raise UserError(
            f"{folder} exists and is no folder of several caches; choose a new or empty one."
        )


def claim_folders(dataset: EpisodeDataset, folder: Path, parts: Mapping[str, PartOptions]) -> None:
    """Begin the folder of a cache of frames of several datasets, or go on with it.

    parts are those of the mixture, by name, where it is one. UserError when the folder is of
    others, or a part's actions are made of robot states, which no cache of frames holds.
    """
    if not isinstance(dataset, Joined):
        return
    if dataset.is_mixture:
        _claim_mixture(folder, parts)
    else:
        names, file = [part.name for part in dataset.parts], folder / VIEWS_INDEX
        begun = claim(folder, VIEWS_INDEX, json.dumps(names) + "\n")
        if not begun and read_any_json(file) != names:
            raise _of_others(file)
    for number, part in enumerate(dataset.parts):
        claim_folders(part.dataset, _own_folder(dataset, folder, number), {})


def _own_folder(dataset: Joined, folder: Path, number: int) -> Path:
    return folder / f"part-{number}" if dataset.is_mixture else view_folder(folder, number)


def _claim_mixture(folder: Path, parts: Mapping[str, PartOptions]) -> None:
    entries = {}
    for number, (name, part) in enumerate(parts.items()):
        if part.takes_states:
            raise UserError(
                f"The actions of {name} are made of robot states, which a cache of frames does not "
                f"hold; take another action_form, or cache tokens."
            )
        entries[name] = _entry(f"part-{number}", part)
    text = yaml.safe_dump(entries, sort_keys=False)
    if claim(folder, MIXTURE, text):
        return
    file = folder / MIXTURE
    if list(read_mapping(file, kind="mixture").items()) != list(entries.items()):
        raise _of_others(file)


def _entry(beside: str, part: PartOptions) -> dict[str, Any]:
    """What a mixture says of a part whose frames are cached, wherever a machine sees them."""
    entry: dict[str, Any] = {BESIDE: beside, "weight": part.weight}
    if part.camera is not None:
        entry["camera"] = part.camera
    rows = {word: getattr(part, word) for word in changed(part, RowOptions)}
    return entry | {k: list(v) if isinstance(v, tuple) else v for k, v in rows.items()}


def _of_others(file: Path) -> UserError:
    return UserError(
        f"{file} is there already and names other parts, weights or settings; mend it by hand, or "
        f"choose another folder."
    )
