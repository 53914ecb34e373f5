"""What is known of recordings beside frames and actions: version, video codec, size, robot states.

Readers may say `version` and `robot_type` themselves; what they leave out is looked up in the files
every LeRobot or RLDS dataset has, and None where it is not found, never an error. Readers that know
robot states have `state_names` and `states(index)`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from vidwm.data.clip import EpisodeDataset
from vidwm.data.joined import Joined
from vidwm.data.reading import read_json
from vidwm.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class States:
    """Robot states (M, S) of some episodes, and a name per dimension."""

    rows: np.ndarray
    names: Sequence[str]


def lerobot_info(dataset: EpisodeDataset) -> dict[str, Any]:
    """The content of meta/info.json, {} where there is none."""
    return _json(dataset.path / "meta" / "info.json")


def version_of(dataset: EpisodeDataset) -> str | None:
    """The version of the format (LeRobot) or of the dataset (RLDS), as its files state it."""
    stated = (
        getattr(dataset, "version", None)
        or lerobot_info(dataset).get("codebase_version")
        or _json(dataset.path / "dataset_info.json").get("version")
    )
    return str(stated) if stated else None


def robot_of(dataset: EpisodeDataset) -> str | None:
    """The robot's name, where the files give one."""
    stated = getattr(dataset, "robot_type", None) or lerobot_info(dataset).get("robot_type")
    return str(stated) if stated else None


def codec_of(dataset: EpisodeDataset) -> str | None:
    """Codec and pixel format of the first video file of the camera, such as "h264 yuv420p"."""
    camera = str(getattr(dataset, "camera", ""))
    files = (path for path in _files(dataset.path) if path.suffix.lower() in VIDEO_SUFFIXES)
    file = next((path for path in files if camera in str(path)), None)
    if file is None:
        return None
    try:
        with av.open(str(file), metadata_errors="ignore") as container:
            codec = container.streams.video[0].codec_context
            return f"{codec.name} {codec.pix_fmt}"
    except (av.FFmpegError, OSError, IndexError, AttributeError):
        return None


def disk_usage(path: Path) -> tuple[int, int]:
    """Bytes and number of the files at or below a path."""
    sizes = [os.stat(file).st_size for file in _files(path) if file.exists()]
    return sum(sizes), len(sizes)


def states_of(dataset: EpisodeDataset, episodes: Sequence[int]) -> States | None:
    """Robot states of some episodes, by number; None where none are known, or not the same ones.

    UserError when a file that should hold them cannot be fetched, or holds others.
    """
    if isinstance(dataset, Joined):
        places = [dataset.place(i) for i in episodes]
        found = [states_of(part.dataset, [number]) for part, number in places]
        known = [states for states in found if states is not None]
        if not known or len(known) < len(found):
            return None
        if any(list(states.names) != list(known[0].names) for states in known):
            return None
        return States(np.concatenate([states.rows for states in known]), known[0].names)
    names = getattr(dataset, "state_names", ())
    if not names:
        return None
    reader = cast(Any, dataset)
    return States(np.concatenate([reader.states(i) for i in episodes]), names)


def checked_states(dataset: EpisodeDataset, episode: int) -> np.ndarray:
    """Robot states (T, S) float32 of an episode, finite, a row a frame; UserError otherwise."""
    found, length = states_of(dataset, [episode]), dataset.lengths[episode]
    if found is not None and found.rows.shape == (length, len(found.names)):
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(found.rows, dtype=np.float32)
        if np.isfinite(rows).all():
            return rows
    raise UserError(
        f"{dataset.path}, episode {dataset.episode_ids[episode]}: expected {length} rows of finite "
        f"robot states, one a frame; leave the episode out, as --on_bad_episode skip does."
    )


def lerobot_number(episode_id: str) -> int | None:
    """12 for "episode_000012"."""
    found = re.fullmatch(r"episode_(\d+)", episode_id)
    return int(found[1]) if found else None


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except UserError:
        return {}
