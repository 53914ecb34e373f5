"""`vidwm data convert`: recordings of any readable format as LeRobotDataset v3.0 or npz episodes.

Actions stay what they are to the last bit. Frames do in npz; as LeRobot they go through H.264 in
full chroma. All is written to <output_dir>.partial, which gets its name when it is complete; an
existing folder is never touched. After a kill the same command goes on: npz keeps the episodes that
are there and ends with the same bytes as an undisturbed run; LeRobot, whose files hold many
episodes each, starts again (and x264 does not repeat its bytes, so its videos may differ in them).
A lock that ends with its process keeps two conversions apart.

What npz cannot hold (frame rate, names, tasks) is written beside it, in convert.json, from where it
is read again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vidwm.data.clip import Episode, EpisodeDataset
from vidwm.data.facts import robot_of, states_of
from vidwm.data.lerobot_writer import LeRobotWriter
from vidwm.data.npz_facts import FILE
from vidwm.data.reading import inside
from vidwm.data.recordings import open_recordings
from vidwm.data_config import ConvertConfig
from vidwm.errors import UserError


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
    if target.exists():
        raise UserError(f"{target} exists already; choose a new folder or remove it first.")
    if target.absolute().is_relative_to(config.data.absolute()):
        raise UserError(f"{target} lies inside of {config.data}; choose a folder beside it.")
    dataset = open_recordings(config)
    partial = target.with_name(target.name + ".partial")
    settings = {key: str(value) for key, value in asdict(config).items()}
    settings["ids"] = json.dumps(list(dataset.episode_ids))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(target, partial, settings):
            if config.format == "npz":
                _write_npz(dataset, target, partial)
            else:
                try:
                    _write_lerobot(dataset, target, partial, config.crf)
                except BaseException:  # it cannot go on from there, so it need not fill the disk
                    shutil.rmtree(partial, ignore_errors=True)
                    raise
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}); free space or choose another "
            f"folder, and run the same command again."
        ) from error
    return dataset


@contextmanager
def _locked(target: Path, partial: Path, settings: dict[str, str]) -> Iterator[None]:
    """Hold <target>.lock, which tells by whom and with which settings `partial` was begun.

    What a killed run with other settings left is removed; what no conversion began is not.
    """
    lock = target.with_name(target.name + ".lock")
    begun = lock.exists()
    if partial.exists() and not begun:
        raise UserError(f"{partial} is in the way, and not of a conversion; remove or rename it.")
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Another process is writing {target}; wait for it to end.") from None
        file.seek(0)
        if file.read() != json.dumps(settings):
            shutil.rmtree(partial, ignore_errors=True)
            file.truncate(0)
            file.write(json.dumps(settings))
            file.flush()
        try:
            yield
        finally:
            if not partial.exists():  # else it says what was left, and by which settings
                lock.unlink()


def _write_npz(dataset: EpisodeDataset, target: Path, partial: Path) -> None:
    partial.mkdir(exist_ok=True)
    tasks = {}
    for number, episode in _episodes(dataset):
        file = inside(partial, f"{episode.id}.npz", stated_in=dataset.path)
        tasks[episode.id] = episode.task
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        with unfinished.open("wb") as stream:
            arrays: dict[str, Any] = {"image": episode.frames.transpose(0, 2, 3, 1)}
            arrays |= {"action": episode.actions} | _state(dataset, number)
            np.savez_compressed(stream, **arrays)
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


def _write_lerobot(dataset: EpisodeDataset, target: Path, partial: Path, crf: int) -> None:
    if dataset.fps != round(dataset.fps):
        raise UserError(
            f"{dataset.path} has {dataset.fps:g} frames per second; LeRobot needs a whole number."
        )
    shutil.rmtree(partial, ignore_errors=True)
    states = states_of(dataset, [0])
    writer = LeRobotWriter(
        target,
        fps=round(dataset.fps),
        robot_type=robot_of(dataset) or "unknown",
        action_names=dataset.action_names,
        state_names=states.names if states else (),
        crf=crf,
    )
    size: tuple[int, ...] | None = None
    with writer:
        for number, episode in _episodes(dataset):
            if size not in (None, episode.frames.shape[2:]):
                raise UserError(
                    f"{dataset.path}: episode {episode.id} has frames of (H, W) "
                    f"{episode.frames.shape[2:]}, those before {size}; LeRobot holds one size: "
                    f"choose episodes with --episodes."
                )
            size = episode.frames.shape[2:]
            rows = _state(dataset, number).get("state", np.zeros((len(episode), 0), np.float32))
            writer.add_episode(
                frames=np.ascontiguousarray(episode.frames.transpose(0, 2, 3, 1)),
                actions=episode.actions,
                states=rows if states else rows[:, :0],
                task=episode.task,
            )


def _episodes(dataset: EpisodeDataset) -> Iterator[tuple[int, Episode]]:
    numbers = range(len(dataset))
    for number in tqdm(numbers, desc="convert", unit="episode", leave=False, disable=None):
        yield number, dataset.episode(number)


def _state(dataset: EpisodeDataset, number: int) -> dict[str, np.ndarray]:
    """{"state": (T, S) float32} of an episode, {} where none is known."""
    states = states_of(dataset, [number])
    if states is None or len(states.rows) != dataset.lengths[number]:
        return {}
    return {"state": np.ascontiguousarray(states.rows, dtype=np.float32)}
