"""`vidwm data convert`: recordings of any readable format as LeRobotDataset v3.0 or npz episodes.

Actions stay what they are to the last bit. Frames do in npz; as LeRobot they go through H.264 in
full chroma. All is written
to <output_dir>.partial, which gets its name when it is complete; an existing folder is never
touched. After a kill or on a full disk the same command goes on behind what is whole, be it an npz
episode or a LeRobot file of many, and ends with the same bytes as an undisturbed run. A lock that
ends with its process keeps two conversions apart, and says what the unfinished folder is of.

What npz cannot hold (frame rate, names, tasks) is written beside it, in convert.json, from where it
is read again.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from vidwm.data.cache_folder import state_of
from vidwm.data.clip import EpisodeDataset
from vidwm.data.facts import checked_states, robot_of, states_of
from vidwm.data.joined import Joined, first_episodes
from vidwm.data.lerobot_writer import LeRobotWriter
from vidwm.data.mixture_file import read_mixture
from vidwm.data.npz_facts import FILE
from vidwm.data.reading import inside
from vidwm.data.recordings import check_beside, open_recordings
from vidwm.data_config import ConvertConfig, RowOptions
from vidwm.errors import UserError, first_line


def convert_command(config: ConvertConfig) -> None:
    """Convert, and say what was written."""
    dataset = convert(config)
    print(
        f"convert: {len(dataset):,} episodes, {sum(dataset.lengths):,} frames from "
        f"{dataset.format} to {config.format}: {config.output_dir}"
    )


def convert(config: ConvertConfig) -> EpisodeDataset:
    """Write the new dataset; returns the one that was read."""
    target = config.output_dir
    _check_new(target)
    dataset = open_recordings(config)
    check_beside(target, config, dataset)
    partial = target.with_name(target.name + ".partial")
    begun = {
        "recordings": [str(config.data.absolute()), *_states(dataset)],
        "camera": dataset.camera,
        "split": config.split,
        "settings of parts": _settings(config, dataset),
        "episodes": list(dataset.episode_ids),
        "format": config.format,
        "crf": config.crf,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, partial, begun):
            if config.format == "npz":
                _write_npz(dataset, target, partial)
            else:
                _write_lerobot(dataset, target, config.crf)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or first_line(error)}); free space or "
            f"choose another folder, and run the same command again."
        ) from error
    return dataset


def _check_new(target: Path) -> None:
    if target.exists():
        raise UserError(f"{target} exists already; choose a new folder or remove it first.")


def _states(dataset: EpisodeDataset) -> list[str]:
    """Hashes of the recorded files, of every part."""
    if not isinstance(dataset, Joined):
        return [state_of(dataset)]
    return [state for part in dataset.parts for state in _states(part.dataset)]


def _settings(config: ConvertConfig, dataset: EpisodeDataset) -> dict[str, dict[str, Any]]:
    """What rows and frames of each part of a mixture are made of; weights make none."""
    if not isinstance(dataset, Joined) or not dataset.is_mixture:
        return {}
    options, words = read_mixture(config), [spec.name for spec in fields(RowOptions)]
    return {
        part.name: {"camera": part.dataset.camera, "split": options[part.name].split}
        | {word: getattr(options[part.name], word) for word in words}
        for part in dataset.parts
    }


@contextmanager
def _locked(target: Path, partial: Path, begun: dict[str, Any]) -> Iterator[None]:
    """Hold <partial>.lock, which tells of what `partial` was begun; UserError if it was of other.

    A lock that holds anything but such a statement is somebody's file: it stays as it is.
    """
    lock = partial.with_name(partial.name + ".lock")
    if partial.exists() and not lock.exists():
        raise UserError(f"{partial} is in the way, and not of a conversion; remove or rename it.")
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Another process is writing {target}; wait for it to end.") from None
        file.seek(0)
        stated = _read_lock(file, lock)
        if partial.exists() and stated != json.dumps(begun):
            raise UserError(
                f"{partial} is of a conversion that was begun with other {_changed(stated, begun)};"
                f" repeat that command, or remove the folder."
            )
        try:
            _check_new(target)  # another process may have written it since
            if not partial.exists():
                file.truncate(0)
                file.write(json.dumps(begun))
                file.flush()
            yield
        finally:
            if not partial.exists():  # else it says what was left
                lock.unlink(missing_ok=True)


def _read_lock(file: TextIO, lock: Path) -> str:
    """What a lock says; UserError if it is no lock of a conversion."""
    try:
        stated = file.read()
        values = json.loads(stated or '{"recordings": []}')
    except ValueError:
        values = None
    if isinstance(values, dict) and "recordings" in values:
        return stated
    raise UserError(f"{lock} is in the way, and not of a conversion; remove or rename it.")


def _changed(stated: str, begun: dict[str, Any]) -> str:
    """In words, what differs from what a lock says."""
    values = json.loads(stated or "{}")
    differing = [name for name in begun if values.get(name) != json.loads(json.dumps(begun[name]))]
    return " and ".join(differing) or "settings"


def _write_npz(dataset: EpisodeDataset, target: Path, partial: Path) -> None:
    partial.mkdir(exist_ok=True)
    tasks, with_states = {}, bool(_state_names(dataset))
    for number in _numbers(dataset):
        file = inside(partial, f"{dataset.episode_ids[number]}.npz", stated_in=dataset.path)
        written = file.exists()
        episode = dataset.span(number, 0, 1) if written else dataset.episode(number)
        tasks[episode.id] = episode.task
        if written:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        arrays: dict[str, Any] = {"image": episode.frames.transpose(0, 2, 3, 1)}
        arrays["action"] = episode.actions
        if with_states:
            arrays["state"] = checked_states(dataset, number)
        try:
            with unfinished.open("wb") as stream:
                np.savez_compressed(stream, **arrays)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(file)
    facts = {
        "from": dataset.format,
        "fps": dataset.fps,
        "camera": getattr(dataset, "camera", None),
        "action_names": list(dataset.action_names),
        "tasks": tasks,
    }
    (partial / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for leftover in partial.rglob("*.unfinished"):
        leftover.unlink()
    partial.rename(target)


def _write_lerobot(dataset: EpisodeDataset, target: Path, crf: int) -> None:
    if dataset.fps != round(dataset.fps):
        raise UserError(
            f"{dataset.path} has {dataset.fps:g} frames per second; LeRobot needs a whole number."
        )
    state_names = _state_names(dataset)
    writer = LeRobotWriter(
        target,
        fps=round(dataset.fps),
        robot_type=robot_of(dataset) or "unknown",
        action_names=dataset.action_names,
        state_names=state_names,
        crf=crf,
        resume=True,
    )
    with writer:
        for number in _numbers(dataset, first=writer.num_episodes):
            episode = dataset.episode(number)
            size, before = episode.frames.shape[2:], writer.frame_shape[:2]
            if before not in ((), size):
                raise UserError(
                    f"{dataset.path}: episode {episode.id} has frames of (H, W) {size}, those "
                    f"before {before}; LeRobot holds one size: choose episodes with --episodes."
                )
            none = np.zeros((len(episode), 0), np.float32)
            writer.add_episode(
                frames=np.ascontiguousarray(episode.frames.transpose(0, 2, 3, 1)),
                actions=episode.actions,
                states=checked_states(dataset, number) if state_names else none,
                task=episode.task,
            )


def _numbers(dataset: EpisodeDataset, first: int = 0) -> Iterator[int]:
    """Of the episodes from `first` on, with a bar that shows how far it is."""
    bar = {"desc": "convert", "unit": "episode", "leave": False, "disable": None}
    yield from tqdm(range(first, len(dataset)), total=len(dataset), initial=first, **bar)


def _state_names(dataset: EpisodeDataset) -> Sequence[str]:
    """Of the states that are kept: () where parts of a mixture have none, or others."""
    states = states_of(dataset, first_episodes(dataset))
    if states is not None:
        return states.names
    if isinstance(dataset, Joined) and any(
        states_of(dataset, [n]) for n in first_episodes(dataset)
    ):
        print(
            f"convert: robot states are left out: the parts of {dataset.path} have different ones"
        )
    return ()
