"""What meta/info.json of a LeRobotDataset says, checked: version, rate, cameras, actions, paths.

Versions 2.0, 2.1 and 3.0 differ in how many episodes share a file, not in this file's fields. Every
file name comes from its templates. Left out: depth cameras, per-episode statistics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

from vidwm.data.reading import read_json
from vidwm.errors import UserError

VERSIONS = ("v2.0", "v2.1", "v3.0")
STATE = "observation.state"
MAX_DIMS = 10_000  # far beyond any robot: a damaged number must not become a list


@dataclass(frozen=True, kw_only=True)
class LeRobotInfo:
    """The checked fields of `file`; `cameras` are sorted, `videos` those of them that are mp4."""

    file: Path
    version: str
    fps: float
    cameras: tuple[str, ...]
    videos: frozenset[str]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]
    num_episodes: int
    chunks_size: int
    data_template: str
    video_template: str
    splits: Mapping[str, str]

    @property
    def shared_files(self) -> bool:
        """Whether many episodes share a file, as since version 3."""
        return self.version.startswith("v3")


def read_info(file: Path) -> LeRobotInfo:
    """UserError names the file and the field if it is not a LeRobotDataset's info.json."""
    info = read_json(file)
    version = str(info.get("codebase_version", ""))
    if not version.startswith(tuple(known[:3] for known in VERSIONS)):
        raise UserError(
            f"{file} says codebase_version {version!r}; expected one of {', '.join(VERSIONS)}."
        )
    try:
        features = info["features"]
        read = LeRobotInfo(
            file=file,
            version=version,
            fps=float(info["fps"]),
            cameras=tuple(sorted(k for k, v in features.items() if _is_camera(v))),
            videos=frozenset(k for k, v in features.items() if v["dtype"] == "video"),
            action_names=_names(features["action"], "action"),
            state_names=_state_names(features),
            num_episodes=int(info["total_episodes"]),
            chunks_size=int(info.get("chunks_size") or 1000),
            data_template=str(info["data_path"]),
            video_template=info.get("video_path") or "",
            splits=dict(info.get("splits") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{file} lacks or misstates {error}; expected the fields of a LeRobotDataset "
            f"{version} with an 'action' feature."
        ) from error
    if not 0 < read.fps < float("inf"):
        raise UserError(f"{file} states fps {read.fps}; expected a positive rate.")
    if read.chunks_size < 1:
        raise UserError(f"{file} states chunks_size {read.chunks_size}; expected 1 or more.")
    return read


def fill_in(info: LeRobotInfo, template: str, **fields: int | str) -> str:
    """A path template with its fields; UserError if it asks for others, or for more than digits."""
    try:
        _check_template(template, tuple(fields))
        return template.format(**fields)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise UserError(
            f"{info.file}: the path template {template!r} cannot be filled in with "
            f"{', '.join(fields)} ({error})."
        ) from error


@lru_cache(maxsize=16)
def _check_template(template: str, names: tuple[str, ...]) -> None:
    """A template is data from elsewhere: no attributes, no paddings of a billion places."""
    if not template:
        raise ValueError("it is empty")
    for _, name, places, conversion in Formatter().parse(template):
        if name is None:
            continue
        if name not in names or conversion or not re.fullmatch(r"0?\d?d?", places or ""):
            raise ValueError(f"a field {name!r} written as {places!r}")


def split_range(info: LeRobotInfo, split: str | None) -> range:
    """Episode numbers of a split, written "first:end"; all of them, or the first split's, if None.

    A dataset with fewer than two splits is read whole.
    """
    if split is None:
        if len(info.splits) < 2:
            return range(2**63)
        split = next(iter(info.splits))
    if split not in info.splits:
        raise UserError(
            f"{info.file} has no split {split!r}; expected one of {', '.join(info.splits)}."
        )
    try:
        first, end = info.splits[split].split(":")
        return range(int(first), int(end))
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{info.file}: split {split!r} is {info.splits[split]!r}; expected 'first:end'."
        ) from error


def _is_camera(feature: dict[str, Any]) -> bool:
    """Whether a feature holds colour images; depth is stored as quantised grey."""
    info = feature.get("info") or feature.get("video_info") or {}
    depth = info.get("is_depth_map") or info.get("video.is_depth_map")
    return feature["dtype"] in ("video", "image") and not depth


def _state_names(features: dict[str, Any]) -> tuple[str, ...]:
    """() where there are no robot states, or none that can be told."""
    try:
        return _names(features[STATE], "state")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return ()


def _names(feature: dict[str, Any], kind: str) -> tuple[str, ...]:
    """One name a dimension; `names` is a list, a dict of one list, a dict of places, or null."""
    (num_dims,) = feature["shape"]
    if not 1 <= int(num_dims) <= MAX_DIMS:
        raise ValueError(f"{kind}s of {num_dims} dimensions")
    names = feature.get("names")
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = lists[0] if len(lists) == 1 else list(names)
    if isinstance(names, list) and len(names) == num_dims:
        return tuple(str(name) for name in names)
    return tuple(f"{kind}_{dim}" for dim in range(int(num_dims)))
